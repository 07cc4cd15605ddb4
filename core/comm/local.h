// A run of one rank: every collective is already done.
#pragma once

#include <memory>

#include "core/comm/communicator.h"

namespace headway {

std::unique_ptr<Communicator> make_local_communicator();

}  // namespace headway
