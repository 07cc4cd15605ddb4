// What the ranks of one machine need and one of them can make: written once, read by all.
#pragma once

#include <functional>

#include "core/comm/communicator.h"
#include "core/io/scratch_file.h"

namespace headway {

/// Runs `write` on one rank of each machine and gives what it wrote to all ranks there. Ranks in different
/// containers count as on different machines. Collective: `write` must not communicate, and may take long.
/// Errors on one rank are thrown on all.
ScratchFile write_once_per_machine(Communicator&, const std::function<void(ScratchFile&)>& write);

}  // namespace headway
