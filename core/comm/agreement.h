// What ranks tell each other through host memory. Work that may fail on one rank: all ranks learn of it
// together, so that none waits in a collective for a rank that has left.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/comm/communicator.h"

namespace headway {

/// Runs work on this rank. When it throws on any rank, every rank throws the error of the lowest rank on
/// which it did, with the same class of core/error.h and, for ranks other than 0, the rank in front of the
/// message. Collective: work itself must not communicate.
void agree(Communicator&, const std::function<void()>& work);

/// The same for work that may take longer than a collective may, such as writing a checkpoint: it runs on a
/// thread of its own while the ranks keep telling each other that they are there, so that the time limit
/// still finds a rank that is gone.
void agree_on_long_work(Communicator&, const std::function<void()>& work);

/// The root's text on every rank.
std::string broadcast_text(Communicator&, const std::string& text, int root);

/// Element by element over the ranks; the values are the host's, so no GPU is waited for.
std::vector<double> all_reduce_values(Communicator&, std::span<const double>, Reduce);
std::vector<int64_t> all_reduce_values(Communicator&, std::span<const int64_t>, Reduce);

}  // namespace headway
