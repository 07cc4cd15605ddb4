// When work is worth a team of threads.
#pragma once

#include <cstdint>

namespace headway {

/// Elements below which starting the threads costs more than they save.
inline constexpr int64_t kSmallestParallel = 1 << 14;

/// Rows are reduced in this many blocks at most, whatever the number of threads, so that sums have one order.
inline constexpr int64_t kReductionBlocks = 32;

}  // namespace headway
