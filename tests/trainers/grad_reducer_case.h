// Three steps of a GradReducer against the sums computed directly; for threads and for processes of mpirun.
#pragma once

#include "core/comm/communicator.h"

namespace headway {

/// Throws std::runtime_error with what went wrong. Every rank finishes its gradients in another order.
void check_grad_reducer(Communicator&);

}  // namespace headway
