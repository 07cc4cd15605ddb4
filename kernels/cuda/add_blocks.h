#pragma once

#include <cstdint>

#include "core/stream.h"

namespace headway::cuda {

/// sums[n] (+)= sum over b of partial[b,n], in one fixed order; partial [blocks,N].
struct BlockSums {
  const float* partial = nullptr;
  float* sums = nullptr;
  bool accumulate = false;
};
void add_blocks(const float* partial, int64_t blocks, int64_t N, float* sums, bool accumulate, Stream&);
/// Two such sums in one launch; the second may be absent.
void add_blocks(int64_t blocks, int64_t N, BlockSums first, BlockSums second, Stream&);

}  // namespace headway::cuda
