// Powers of 2 and logarithms to base 2, one instruction each.
#pragma once

namespace headway::cuda {

/// Exponents of 2 are that many times those of e.
inline constexpr float kLog2E = 1.4426950408889634f;

/// 2^x, to 2 units in the last place. Results below 2^-126 are zero: to keep them takes twice as many
/// instructions.
__device__ inline float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Of x >= 2^-126, to 2^-22 where x lies in (1/2, 2), which is what a rounding of x comes to, and to 2 units
/// in the last place elsewhere.
__device__ inline float log_2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace headway::cuda
