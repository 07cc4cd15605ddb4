// The rotation of rope.h of one row.
#pragma once

#include <algorithm>
#include <cstdint>

namespace headway {

/// y [D] = x with the pairs (i, i + half) turned by the angles [half, 2] (cosine, sine), or back where
/// direction is -1; channels from 2 half on are copied. y may be x.
template <class T>
void turn(const T* x, const T* angle, int64_t half, int64_t D, T direction, T* y) {
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const T cosine = angle[2 * i], sine = direction * angle[2 * i + 1], a = x[i], b = x[i + half];
    y[i] = a * cosine - b * sine;
    y[i + half] = b * cosine + a * sine;
  }
  if (y != x) std::copy(x + 2 * half, x + D, y + 2 * half);
}

}  // namespace headway
