// Requests to stop, as signals. Under mpirun only SIGUSR1 and SIGUSR2 leave time for a save: Open MPI kills
// its ranks a second after it received SIGTERM or SIGINT itself.
#pragma once

namespace headway {

/// From here on SIGUSR1, SIGUSR2, SIGTERM and SIGINT set a flag instead of ending the process. A second
/// SIGINT ends it at once.
void catch_stop_signals();
/// The signal received on this rank, or 0. Ranks must agree by a collective before acting on it.
int stop_signal_received();

}  // namespace headway
