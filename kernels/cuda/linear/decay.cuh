// What a decay per head leaves within a chunk of 64 tokens, laid out as the threads of a warpgroup use it.
#pragma once

#include "kernels/cuda/base_2.cuh"
#include "kernels/cuda/linear/sweep.h"
#include "kernels/cuda/tile/products.cuh"

namespace headway::cuda::linear {

/// To base 2, of one token. Less than 2^-15 of anything is lost in the rounding of bf16, so that stronger
/// decays need not be told apart, and no factor below leaves the range of fp32.
__device__ inline float log_decay_of_head(const float* slope, int h) {
  constexpr float kStrongest = -15;
  return slope ? fmaxf(-slope[h] * kLog2E, kStrongest) : 0.0f;
}

/// What is left of the state before the chunk at its token i.
__device__ inline float decay_of_state(float log_decay, bool from_end, int i, int num_tokens) {
  return power_of_2(log_decay * static_cast<float>(from_end ? max(num_tokens - 1 - i, 0) : i + 1));
}

/// What is left of each token behind the chunk, by which y's channels are multiplied as a left operand: each
/// factor as the sum of two bf16, in shared memory. A thread reads 16 bytes for each 16 tokens.
struct TokenDecay {
  static constexpr int kBytes = 256;
  unsigned address;

  /// By the block's threads with numbers 0 to 63, for `num_tokens` of the chunk's tokens.
  __device__ void fill(float log_decay, bool from_end, int num_tokens) const {
    const int j = static_cast<int>(threadIdx.x);
    if (j >= kChunk) return;
    const int distance = from_end ? j + 1 : num_tokens - 1 - j;
    const float factor = power_of_2(log_decay * static_cast<float>(max(distance, 0)));
    const __nv_bfloat16 high = __float2bfloat16_rn(factor),
                        low = __float2bfloat16_rn(factor - __bfloat162float(high));
    const unsigned to = place(threadIdx.x);
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(to), "h"(__bfloat16_as_ushort(high)) : "memory");
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(to + 4), "h"(__bfloat16_as_ushort(low)) : "memory");
  }
  /// Of token j.
  __device__ float factor(unsigned j) const {
    const unsigned at = place(j);
    return load_shared_bf16(at) + load_shared_bf16(at + 4);
  }
  /// Of tokens 16 step..: those of the lower and the upper eight, high and low part.
  __device__ uint4 load(int step) const {
    return load_shared(address + threadIdx.x % 4 * 64 + static_cast<unsigned>(step * 16));
  }

 private:
  __device__ unsigned place(unsigned j) const {
    const unsigned step = j / 16, half = j / 8 % 2, quad_lane = j / 2 % 4;
    return address + quad_lane * 64 + step * 16 + half * 8 + j % 2 * 2;
  }
};

/// Channels 16 w.. of each 64 of a chunk of y as rows, for warp w, and its tokens as depth, times what is
/// left of the tokens behind the chunk: a left operand.
template <int kPanels>
__device__ void load_decayed(unsigned (&to)[kPanels][4][4], unsigned tile, const TokenDecay& decay) {
  constexpr unsigned kPanelBytes = kChunk * 128;
  const auto multiply = [](unsigned a, unsigned high, unsigned low) {
    unsigned product;
    asm("{ .reg .b32 t; mul.rn.bf16x2 t, %1, %3; fma.rn.bf16x2 %0, %1, %2, t; }"
        : "=r"(product)
        : "r"(a), "r"(high), "r"(low));
    return product;
  };
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x % kWarpgroup / kWarp;
  const unsigned from =
      tile + (lane % 8 + lane / 16 * 8) * 128 + (((2 * warp + lane / 8 % 2) ^ lane % 8) << 4);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const uint4 factor = decay.load(step);
#pragma unroll
    for (int panel = 0; panel < kPanels; ++panel) {
      unsigned(&a)[4] = to[panel][step];
      load_matrices_transposed(a, from + panel * kPanelBytes + static_cast<unsigned>(step) * 2048);
      a[0] = multiply(a[0], factor.x, factor.y), a[1] = multiply(a[1], factor.x, factor.y);
      a[2] = multiply(a[2], factor.z, factor.w), a[3] = multiply(a[3], factor.z, factor.w);
    }
  }
}

/// What is left of token j (column) at token i (row) of the chunk, zero for pairs that do not count, for the
/// sums of <x_i, y_j> of this thread: in registers.
struct PairDecayInRegisters {
  static constexpr int kBytes = 0;
  float factor[32];

  __device__ static void fill(unsigned, float, bool) {}
  __device__ void begin(unsigned, float log_decay, bool from_end) {
    const int row = static_cast<int>(threadIdx.x % kWarpgroup / kWarp * 16 + threadIdx.x % kWarp / 4),
              column = static_cast<int>(threadIdx.x % 4 * 2);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int distance = row + i / 2 % 2 * 8 - column - i / 4 * 8 - i % 2,
                age = from_end ? -distance : distance;
      factor[i] = age >= 0 ? power_of_2(log_decay * static_cast<float>(age)) : 0.0f;
    }
  }
  /// sums *= their factors, and rounded: a left operand.
  __device__ void weigh(unsigned (&to)[4][4], float (&sums)[32]) const {
#pragma unroll
    for (int i = 0; i < 32; ++i) sums[i] *= factor[i];
#pragma unroll
    for (int i = 0; i < 16; ++i) to[i / 4][i % 4] = round_pair(sums[2 * i], sums[2 * i + 1]);
  }
};

/// The same where registers are short: a factor of the column, from shared memory, times one of the row, and
/// a bit for each pair that counts. Both count from the middle of the warp's 16 rows, so that neither leaves
/// the range of fp32 under the strongest decay.
struct PairDecayInMemory {
  static constexpr int kBytes = 4 * kChunk * sizeof(float);
  unsigned address, counts;
  float of_row[2];

  /// By the block's threads with numbers 0 to 63.
  __device__ static void fill(unsigned address, float log_decay, bool from_end) {
    const int j = static_cast<int>(threadIdx.x);
    if (j >= kChunk) return;
    for (int warp = 0; warp < 4; ++warp) {
      const int distance = 16 * warp + 8 - j, age = from_end ? -distance : distance;
      const float factor = age >= -8 ? power_of_2(log_decay * static_cast<float>(age)) : 0.0f;
      const int index = warp * 64 + j / 2 % 4 * 16 + j / 8 * 2 + j % 2;
      store_shared(address + static_cast<unsigned>(index * 4), __float_as_uint(factor));
    }
  }
  __device__ void begin(unsigned table, float log_decay, bool from_end) {
    const int warp = static_cast<int>(threadIdx.x % kWarpgroup / kWarp), in_warp = threadIdx.x % kWarp / 4,
              row = warp * 16 + in_warp, column = static_cast<int>(threadIdx.x % 4 * 2);
    address = table + static_cast<unsigned>(warp * 256) + threadIdx.x % 4 * 64;
    counts = 0;
    for (int i = 0; i < 32; ++i) {
      const int distance = row + i / 2 % 2 * 8 - column - i / 4 * 8 - i % 2;
      if (from_end ? distance <= 0 : distance >= 0) counts |= 1u << i;
    }
    for (int half = 0; half < 2; ++half) {
      const int from_middle = in_warp + half * 8 - 8;
      of_row[half] = power_of_2(log_decay * static_cast<float>(from_end ? -from_middle : from_middle));
    }
  }
  __device__ void weigh(unsigned (&to)[4][4], float (&sums)[32]) const {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const uint4 four = load_shared(address + static_cast<unsigned>(step * 16));
      const float of_column[4] = {__uint_as_float(four.x), __uint_as_float(four.y), __uint_as_float(four.z),
                                  __uint_as_float(four.w)};
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const int i = step * 8 + pair * 2;
#pragma unroll
        for (int c = 0; c < 2; ++c)
          sums[i + c] =
              counts >> (i + c) & 1 ? sums[i + c] * (of_column[pair / 2 * 2 + c] * of_row[pair % 2]) : 0.0f;
        to[step][pair] = round_pair(sums[i], sums[i + 1]);
      }
    }
  }
};

}  // namespace headway::cuda::linear
