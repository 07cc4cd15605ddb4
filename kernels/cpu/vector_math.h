// Vector types of the compiler, as wide as the target's registers, and functions that GCC turns into vector
// code inside a `#pragma omp simd` loop, without fast-math.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace headway {

/// Bytes of the widest vector register the target has: 64 with AVX-512, 32 with AVX, 16 otherwise.
inline constexpr int kVectorBytes = __BIGGEST_ALIGNMENT__;
template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

/// kLanes<T> numbers in one register; loads and stores need no more than the alignment of T.
template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;

/// e^x to 2 units in the last place, without branches. Below -86.98 (1e-38) the result is 0, above 88.72 it
/// is infinity; NaN stays NaN.
inline float vector_exp(float x) {
  constexpr float kLowest = -86.98f;     // the power of two below stays normal
  constexpr float kHighest = 88.72283f;  // log of the largest float
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float clamped = x < kLowest ? kLowest : (x > kHighest ? kHighest : x);
  const float shifted = clamped * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  // Minimax polynomial of (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2 (Cephes, expf).
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float mantissa = p * (r * r) + r + 1.0f;
  // 2^n as two factors, because n = 128 itself has no float.
  const int32_t power = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  const float half = std::bit_cast<float>((power - 1 + 127) << 23);
  const float result = mantissa * half * 2.0f;
  return x < kLowest ? 0.0f : (x > kHighest ? HUGE_VALF : result);
}

inline double vector_exp(double x) { return std::exp(x); }

}  // namespace headway
