#pragma once

#include <cstdint>

#include "core/bf16.h"
#include "core/stream.h"

namespace headway::cuda {

/// to[i] = from[i], rounded to nearest even; n values in the memory of the stream's device.
void round_to_bf16(const float* from, bf16* to, int64_t n, Stream&);

}  // namespace headway::cuda
