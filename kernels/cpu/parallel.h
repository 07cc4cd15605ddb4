// When work is worth a team of threads, and sums over rows whose order does not depend on the team.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/view.h"

namespace headway {

/// Elements below which starting the threads costs more than they save.
inline constexpr int64_t kSmallestParallel = 1 << 14;

/// Rows are summed in this many blocks, a function of their number alone.
constexpr int64_t num_reduction_blocks(int64_t rows) {
  constexpr int64_t kSmallestBlock = 8, kMostBlocks = 32;
  return std::clamp<int64_t>(rows / kSmallestBlock, 1, kMostBlocks);
}

/// sum[n] (+)= partial[0][n] + partial[1][n] + ...; partial is [num_blocks, size of sum].
template <class T>
void add_blocks(const T* partial, int64_t num_blocks, const View<T, 1>& sum, bool accumulate) {
  const int64_t N = sum.size[0];
  T* const to = sum.data;
  if (!accumulate) std::fill_n(to, N, T(0));
  for (int64_t block = 0; block < num_blocks; ++block) {
    const T* const from = partial + block * N;
#pragma omp simd
    for (int64_t n = 0; n < N; ++n) to[n] += from[n];
  }
}

}  // namespace headway
