// Element-wise reduction over ranks whose buffers one process can reach:
//   every targets[.][i] = combine(...combine(sources[0][i], sources[1][i])..., sources[R-1][i])
// always in rank order, so the bits depend on the values alone. NaN in a sum stays NaN.
#pragma once

#include <cstdint>
#include <span>

#include "core/comm/communicator.h"

namespace headway {

/// Elements lo <= i < hi of buffers of one dtype: f32, f64, i32 or i64. Targets may be sources.
void reduce_elements(std::span<void* const> sources, std::span<void* const> targets, int64_t lo, int64_t hi,
                     DType, Reduce);

}  // namespace headway
