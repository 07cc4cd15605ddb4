// A bias of the pairs of a sweep: <x_i, y_j> + b with a number b for each token, that of token i or of token
// j. Then S has one more row, Z = sum_j weight_j b_j z_j (b of tokens j) or sum_j weight_j z_j, which is
// added to x_i S once, or b_i times. Z is a product of z's columns as rows with 8 columns, of which the first
// two hold the factors as the sum of two bf16.
#pragma once

#include "kernels/cuda/linear/decay.cuh"
#include "kernels/cuda/linear/normaliser.cuh"

namespace headway::cuda::linear {

__device__ inline float load_shared_float(unsigned address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}
__device__ inline float2 load_shared_pair(unsigned address) {
  float2 pair;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(address) : "memory");
  return pair;
}

/// The factors of a chunk's tokens in Z, in shared memory.
struct BiasFactors {
  static constexpr int kBytes = kChunk * 16;
  unsigned address;

  /// By a warpgroup, once: columns that nobody reads.
  __device__ void clear() const {
    if (threadIdx.x % kWarpgroup < kBytes / 16)
      store_shared(address + threadIdx.x % kWarpgroup * 16, make_uint4(0, 0, 0, 0));
  }
  /// By a warpgroup: what is left of each token behind the chunk, times its bias where that is y's.
  __device__ void set(const TokenDecay& decay, unsigned biases, bool of_y) const {
    const unsigned thread = threadIdx.x % kWarpgroup, j = thread / 2, column = thread % 2;
    const float factor = decay.factor(j) * (of_y ? load_shared_float(biases + j * 4) : 1.0f);
    const __nv_bfloat16 high = __float2bfloat16_rn(factor),
                        low = __float2bfloat16_rn(factor - __bfloat162float(high));
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(address + j / 8 * 128 + column * 16 + j % 8 * 2),
                 "h"(__bfloat16_as_ushort(column == 0 ? high : low))
                 : "memory");
  }
};

/// Z in the registers of a warpgroup: the first lane of each four has the two parts for its two columns of z.
struct BiasSum {
  static constexpr int kBytes = kChunk * sizeof(float);  // in shared memory
  float values[4];

  __device__ void clear() {
#pragma unroll
    for (float& x : values) x = 0;
  }
  __device__ void scale(float factor) {
#pragma unroll
    for (float& x : values) x *= factor;
  }
  __device__ void pin() {
#ifdef HEADWAY_WGMMA
    pin_registers(values);
#endif
  }
  /// use(column of z in the block, its two parts)
  template <class Use>
  __device__ void each(Use use) {
    const int column = static_cast<int>(threadIdx.x % kWarpgroup / kWarp * 16 + threadIdx.x % kWarp / 4);
    if (threadIdx.x % 4 != 0) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) use(column + half * 8, values[2 * half], values[2 * half + 1]);
  }
  __device__ void put(unsigned address) {
    each([&](int column, float high, float low) {
      store_shared(address + static_cast<unsigned>(column * 4), __float_as_uint(high + low));
    });
  }
#ifdef HEADWAY_WGMMA
  /// z: a descriptor of its 64 columns
  __device__ void add(uint64_t z, const BiasFactors& factors) {
#pragma unroll
    for (int step = 0; step < 4; ++step)
      wgmma_eight<Major::other>(values, z + static_cast<uint64_t>(step * 128),
                                descriptor_of_eight(factors.address) + static_cast<uint64_t>(step * 16),
                                true);
  }
#endif
};

/// Where pairs have no bias.
struct NoBiasSum {
  __device__ void clear() {}
  __device__ void scale(float) {}
  __device__ void pin() {}
};

}  // namespace headway::cuda::linear
