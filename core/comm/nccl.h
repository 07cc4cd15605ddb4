// Ranks with a GPU each. What lies in GPU memory travels by NCCL, on a stream of its own that waits for the
// caller's and is waited for by it; what lies in host memory travels by the communicator that started the
// ranks.
//
// NCCL says nothing of a peer that is alive and silent, so a thread of this communicator watches: when a
// collective has not finished within the deadline, or NCCL reports an error, the rank writes its collective
// log to stderr and ends every rank with status 8.
//
// NCCL's sums do not depend on time, but on the number of ranks and the way they are connected: the same
// machine gives equal bits. The library (libnccl.so.2) is loaded when the communicator is made, so that
// programs without several GPUs neither need nor pay for it.
#pragma once

#include <memory>

#include "core/comm/communicator.h"

namespace headway {

/// Collective. host: how these ranks reach each other in host memory. DeviceError where two ranks have the
/// same GPU or this build has no NCCL, CommError where NCCL cannot be loaded or started.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host, Device,
                                                     double timeout_s);

}  // namespace headway
