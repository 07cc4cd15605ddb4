#pragma once

#include <cstdint>

#include "core/stream.h"

namespace headway::cuda {

/// sums[n] (+)= sum over b of partial[b,n], in that order; partial [blocks,N].
void add_blocks(const float* partial, int64_t blocks, int64_t N, float* sums, bool accumulate, Stream&);

}  // namespace headway::cuda
