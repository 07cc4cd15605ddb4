// Trying out algorithms for a matrix product.
#pragma once

#include <cstdint>
#include <functional>

#include "core/bf16.h"
#include "core/stream.h"

namespace headway::cuda {

/// Uniform between -1/2 and 1/2, the same in every run.
void fill_random(bf16* values, int64_t count, Stream&);
/// Waits for the stream. num_different: memory of the device for one number.
unsigned count_different(const uint32_t* a, const uint32_t* b, int64_t count, unsigned* num_different,
                         Stream&);
/// Of a few runs, after one that is not timed. Waits for the stream.
double median_milliseconds(const std::function<void()>& run, Stream&);

}  // namespace headway::cuda
