// Ranks as threads of one process, for tests: the same interface and the same failures as separate processes,
// with all of them in one debugger.
//
// The last rank to arrive at a collective carries it out for all, in rank order. Ranks that disagree about
// what comes next (another collective, dtype, size or root) all get a CommError; so do ranks that wait longer
// than the deadline, and those whose peer has failed.
#pragma once

#include <functional>

#include "core/comm/communicator.h"

namespace headway {

/// Runs f on `size` threads, each with its own rank, and returns when all have ended. Throws the first error
/// of the ranks; an abort(status) in one of them is an Error with that status.
void run_as_threads(int size, double timeout_s, const std::function<void(Communicator&)>& f);

}  // namespace headway
