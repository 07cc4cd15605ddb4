// The normaliser of linear attention in a sweep: d_i = scale_i <x_i, Z> + sum_j w_ij <x_i, y_j> + eps, with Z
// the same recurrence over the rows of y as the state, as one more column of z that is all ones. Z takes part
// in the products as sums of 64 x 8, whose columns are all alike, and <x, Z> reads it as the sum of two bf16,
// in columns that take turns: a row's sum of a pair of columns is as good as one in fp32, and each thread has
// that of its rows.
#pragma once

#include "kernels/cuda/linear/decay.cuh"

namespace headway::cuda::linear {

#ifdef HEADWAY_WGMMA
/// c [64,8] = or += left right, with right without a swizzle in 8x8 matrices of 128 bytes, one for every 8 of
/// the depth.
__device__ inline uint64_t descriptor_of_eight(unsigned address) {
  constexpr uint64_t kMatrix = 128 >> 4;
  return (address & 0x3ffffu) >> 4 | kMatrix << 16 | kMatrix << 32;
}
template <Major kLeft = Major::depth>
__device__ void wgmma_eight(float (&c)[4], uint64_t left, uint64_t right, bool adds) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %6, 0;"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, p, 1, 1, %7, 0; }"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "l"(left), "l"(right), "r"(static_cast<int>(adds)), "n"(static_cast<int>(kLeft)));
}
__device__ inline void wgmma_eight(float (&c)[4], const unsigned (&left)[4], uint64_t right) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, 1, 1, 1, 0;"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right));
}
#endif

/// Ones for 16 of the depth, in shared memory.
struct Ones {
  static constexpr int kBytes = 256;

  /// By the block's threads with numbers 0 to 63.
  __device__ static void fill(unsigned address) {
    constexpr unsigned kTwoOnes = 0x3f803f80;
    if (threadIdx.x < kBytes / 4) store_shared(address + threadIdx.x * 4, kTwoOnes);
  }
};

/// Z in the registers of a warpgroup: of a thread, those of its rows of the sums, each twice.
template <int kPanels>
struct KeySum {
  static constexpr int kOperandBytes = kPanels * 64 * 16;
  float values[kPanels][4];

  __device__ void clear() {
#pragma unroll
    for (int p = 0; p < kPanels; ++p)
#pragma unroll
      for (float& x : values[p]) x = 0;
  }
  __device__ void scale(float factor) {
#pragma unroll
    for (int p = 0; p < kPanels; ++p)
#pragma unroll
      for (float& x : values[p]) x *= factor;
  }
  __device__ void pin() {
#pragma unroll
    for (int p = 0; p < kPanels; ++p) pin_registers(values[p]);
  }
  /// use(this thread's row, half of its values)
  template <class Use>
  __device__ static void each(Use use) {
    const int row = static_cast<int>(threadIdx.x % kWarpgroup / kWarp * 16 + threadIdx.x % kWarp / 4);
#pragma unroll
    for (int p = 0; p < kPanels; ++p)
#pragma unroll
      for (int half = 0; half < 2; ++half) use(p * 64 + row + half * 8, p, half);
  }
  /// As an operand of <x, Z>.
  __device__ void put(unsigned address) const {
    each([&](int row, int p, int half) {
      const float z = values[p][2 * half];
      const __nv_bfloat16 high = __float2bfloat16_rn(z),
                          low = __float2bfloat16_rn(z - __bfloat162float(high));
      const unsigned to = address + static_cast<unsigned>(row / 8 * 128 + row % 8 * 2) + threadIdx.x % 4 * 32;
      asm volatile("st.shared.b16 [%0], %1;" ::"r"(to), "h"(__bfloat16_as_ushort(high)) : "memory");
      asm volatile("st.shared.b16 [%0], %1;" ::"r"(to + 16), "h"(__bfloat16_as_ushort(low)) : "memory");
    });
  }
#ifdef HEADWAY_WGMMA
  /// += y of a chunk, whose decayed rows are `left`.
  __device__ void add(const unsigned (&left)[kPanels][4][4], unsigned ones) {
#pragma unroll
    for (int p = 0; p < kPanels; ++p)
#pragma unroll
      for (int step = 0; step < 4; ++step) wgmma_eight(values[p], left[p][step], descriptor_of_eight(ones));
  }
#endif
};

/// Where there is no normaliser.
struct NoKeySum {
  static constexpr int kOperandBytes = 0;

  __device__ void clear() {}
  __device__ void scale(float) {}
  __device__ void pin() {}
};

}  // namespace headway::cuda::linear
