// Work that may fail on one rank: all ranks learn of it together, so that none waits in a collective for a
// rank that has left.
#pragma once

#include <functional>
#include <string>

#include "core/comm/communicator.h"

namespace headway {

/// Runs work on this rank. When it throws on any rank, every rank throws the error of the lowest rank on
/// which it did, with the same class of core/error.h and, for ranks other than 0, the rank in front of the
/// message. Collective: work itself must not communicate.
void agree(Communicator&, Stream&, const std::function<void()>& work);

/// The root's text on every rank.
std::string broadcast_text(Communicator&, Stream&, const std::string& text, int root);

}  // namespace headway
