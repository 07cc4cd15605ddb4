// Activation recomputation: a block keeps only its input and runs its forward pass again during backward.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "autograd/variable.h"
#include "core/context.h"

namespace headway {

using BlockFunction = std::function<Variable(Context&, const Variable&)>;

/// block(ctx, input), saving only input for backward. The second run sees the same random numbers, no metric
/// sink and ctx.recomputing; auxiliary losses added inside the block keep their gradients.
/// parameters: buffers of every leaf the block reads, so that the engine knows when their gradients are
/// final.
Variable recompute(Context&, const BlockFunction& block, const Variable& input,
                   const std::vector<std::shared_ptr<GradBuffer>>& parameters);

}  // namespace headway
