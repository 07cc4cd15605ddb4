// Signals that concern a whole program: requests to stop, and those that a failed write raises.
//
// Under mpirun only SIGUSR1 and SIGUSR2 leave time for a save: Open MPI kills its ranks a second after it
// received SIGTERM or SIGINT itself.
#pragma once

#include "core/error.h"

namespace headway {

/// The run was asked to stop where there is nothing to save yet.
struct StopRequested : ErrorOf<ExitCode::stopped_on_request> {
  using ErrorOf::ErrorOf;
};

/// Gives descriptors 0 to 2 that are closed to /dev/null, where writes still fail: a file that is opened
/// later must not become what the program prints to.
void keep_standard_descriptors();

/// From here on a write to a closed pipe or past the limit of a file's size fails with an error that the
/// program reports, instead of ending the process (SIGPIPE, SIGXFSZ).
void let_writes_fail();

/// From here on SIGUSR1, SIGUSR2, SIGTERM, SIGHUP, SIGINT and SIGXCPU set a flag instead of ending the
/// process; the second of SIGTERM, SIGHUP and SIGINT ends it at once. A SIGHUP that was ignored at the start
/// (nohup) stays ignored.
void catch_stop_signals();
/// The process group that ends with this process when the second signal does; 0: none.
void end_with_process(int group);
/// The signal received on this rank, or 0. Ranks must agree by a collective before acting on it.
int stop_signal_received();
/// For long work before the first step: StopRequested once a signal was received.
void throw_if_stop_requested();

}  // namespace headway
