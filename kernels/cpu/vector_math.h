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

/// Natural logarithm of a positive normal number, to 2 units in the last place; infinity and NaN stay.
inline float vector_log(float x) {
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr int32_t kHalfSquareRoot = 0x3f3504f3;  // the bits of sqrt(1/2)
  const int32_t bits = std::bit_cast<int32_t>(x);
  const int32_t power = (bits - kHalfSquareRoot) >> 23;
  const float r = std::bit_cast<float>(bits - (power << 23)) - 1.0f;  // x = 2^power (1 + r)
  const float n = static_cast<float>(power), square = r * r;
  // Minimax polynomial of (log(1 + r) - r + r^2 / 2) / r^3 (Cephes, logf).
  float p = 7.0376836292e-2f;
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  const float result = (p * r * square + n * kLn2Low - 0.5f * square) + r + n * kLn2High;
  return x < HUGE_VALF ? result : x;
}
inline double vector_log(double x) { return std::log(x); }

/// To 4 units in the last place.
inline float vector_tanh(float x) {
  const float magnitude = std::abs(x), square = x * x;
  // Minimax polynomial of (tanh x - x) / x^3 on |x| <= 0.625 (Cephes, tanhf).
  float p = -5.70498872745e-3f;
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const float small = p * square * x + x;
  const float e = vector_exp(-2.0f * magnitude);
  const float large = std::copysign((1.0f - e) / (1.0f + e), x);
  return magnitude < 0.625f ? small : large;
}
inline double vector_tanh(double x) { return std::tanh(x); }

/// Sine and cosine of |x| <= pi/4, to 2 units in the last place.
inline float vector_sin_small(float x) {
  const float square = x * x;
  float p = -1.9515295891e-4f;  // Cephes, sinf
  p = p * square + 8.3321608736e-3f;
  p = p * square - 1.6666654611e-1f;
  return p * square * x + x;
}
inline float vector_cos_small(float x) {
  const float square = x * x;
  float p = 2.443315711809948e-5f;  // Cephes, cosf
  p = p * square - 1.388731625493765e-3f;
  p = p * square + 4.166664568298827e-2f;
  return p * square * square - 0.5f * square + 1.0f;
}
inline double vector_sin_small(double x) { return std::sin(x); }
inline double vector_cos_small(double x) { return std::cos(x); }

}  // namespace headway
