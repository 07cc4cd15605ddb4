// The gradients of a normalised output as sweeps without a normaliser: with dn_i = dout_i / d_i and
// dd_i = -<dn_i, o_i>,
//
//   dq_i = sum_{j<=i} w_ij (<dn_i, v_j> + dd_i) k_j      dk_j = sum_{i>=j} w_ij (<dn_i, v_j> + dd_i) q_i
//
// are sweeps whose pairs have a bias. dd is made of dn as it is rounded, so that values less output cancel in
// dq and dk as exactly as in o.
#pragma once

#include "kernels/cuda/launch.cuh"

namespace headway::cuda::linear {

inline constexpr int kDivideLanes = 8;  // of a row

struct DivideArgs {
  const bf16 *dout, *o;      // [B,T,H,V], V a multiple of 8
  const float* denominator;  // [B,T,H]
  int64_t rows, V;
  int64_t T, H, padded;  // padded: T in whole chunks
  bf16* dn;              // [B,T,H,V]
  float* dd;             // [B,H,padded], zeros behind T
};

__global__ void __launch_bounds__(256) divide_kernel(DivideArgs a) {
  using Eight = Pack<bf16, 8>;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kDivideLanes;
  const int lane = static_cast<int>(threadIdx.x) % kDivideLanes;
  const bool exists = row < a.rows;
  const float inverse = exists ? 1 / a.denominator[row] : 0.0f;
  float sum = 0;
  for (int64_t c = lane * 8; exists && c < a.V; c += kDivideLanes * 8) {
    const int64_t at = row * a.V + c;
    const Eight dout = *reinterpret_cast<const Eight*>(a.dout + at),
                o = *reinterpret_cast<const Eight*>(a.o + at);
    Eight dn;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      dn.values[i] = from_float<bf16>(to_float(dout.values[i]) * inverse);
      sum += to_float(dn.values[i]) * to_float(o.values[i]);
    }
    *reinterpret_cast<Eight*>(a.dn + at) = dn;
  }
#pragma unroll
  for (int offset = kDivideLanes / 2; offset > 0; offset /= 2)
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (!exists || lane != 0) return;
  const int64_t h = row % a.H, t = row / a.H % a.T, b = row / a.H / a.T;
  float* const to = a.dd + (b * a.H + h) * a.padded;
  to[t] = -sum;
  for (int64_t behind = a.T; t == a.T - 1 && behind < a.padded; ++behind) to[behind] = 0;
}

}  // namespace headway::cuda::linear
