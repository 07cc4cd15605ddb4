// Reverse-mode differentiation of the recorded graph.
#pragma once

#include <cstddef>
#include <span>

#include "autograd/node.h"

namespace headway {

/// Whether more micro-batches of the same optimiser step follow; after the last one, a leaf's on_ready is
/// called as soon as its gradient is final.
enum class MicroStep : uint8_t { more_follow, last };

/// Adds the gradient of sum_i <roots[i], seeds[i]> to every leaf the roots depend on.
/// Nodes run in the reverse order of their creation, in a loop; what a node saved is freed once it has run,
/// so a graph can be used once. seeds[i] has the shape and dtype of roots[i].
void backward(Context&, std::span<const Variable> roots, std::span<const Tensor> seeds, MicroStep);

/// The same for one scalar, with seed one.
void backward(Context&, const Variable& loss, MicroStep = MicroStep::last);

/// Bytes held for backward by the graph behind root; each memory block counts once, parameters not at all.
size_t saved_bytes(const Variable& root);

}  // namespace headway
