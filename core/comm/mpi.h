// Ranks as processes started by mpirun. Host memory only.
//
// No call blocks inside MPI: every collective is started, then tested until it is finished, so that a
// deadline can be kept. When it passes, the rank writes its collective log to stderr, leaves its peers a
// moment to write theirs, and ends every rank with status 8.
//
// Where all ranks are on one machine, allocate() gives memory that they share, and its reductions are done
// there without messages (shared_reduce.h). Where sharing fails, rank 0 says so on stderr and messages are
// used.
//
// Destroying the communicator ends MPI, unless collectives are still under way or an exception is passing:
// then MPI could wait for ever, so the process is left to end without it and mpirun ends the other ranks.
// abort() gives such an end the right exit status: keep the communicator outside the try block that calls it.
#pragma once

#include <cstdint>
#include <memory>

#include "core/comm/communicator.h"

namespace headway {

struct MpiSettings {
  double timeout_s = 100;
  /// The first collective waits longer: ranks start up unevenly, reading data.
  double first_timeout_s = 300;
  /// One MPI message carries fewer than 2^31 elements; larger tensors travel in several.
  int64_t largest_message = int64_t{1} << 30;
  /// allocate() shares memory between the ranks of one machine.
  bool shares_memory = true;
};

/// Starts MPI. CommError when it cannot be started, or does not allow calls from changing threads, or this
/// build has no MPI. Once per process.
std::unique_ptr<Communicator> make_mpi_communicator(const MpiSettings&);

}  // namespace headway
