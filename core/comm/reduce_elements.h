// Element-wise reduction over ranks whose buffers one process can reach:
//   every buffers[r][i] = combine(...combine(buffers[0][i], buffers[1][i])..., buffers[R-1][i])
// always in rank order, so the bits depend on the values alone. NaN in a sum stays NaN.
#pragma once

#include <cstdint>
#include <span>

#include "core/comm/communicator.h"

namespace headway {

/// Elements lo <= i < hi of buffers of one dtype: f32, f64, i32 or i64.
void reduce_elements(std::span<void* const> buffers, int64_t lo, int64_t hi, DType, Reduce);

}  // namespace headway
