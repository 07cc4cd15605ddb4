// The gradients of a normalised output as sweeps without a normaliser: with dn_i = dout_i / d_i and
// dd_i = -<dn_i, o_i>,
//
//   dq_i = sum_{j<=i} w_ij (<dn_i, v_j> + dd_i) k_j      dk_j = sum_{i>=j} w_ij (<dn_i, v_j> + dd_i) q_i
//
// are sums of products of rows with one more channel, [dn, dd] and [v, 1]. dd takes two channels, the sum of
// two bf16, and is made of dn as it is rounded, so that values less output cancel in dq and dk as exactly as
// in o.
#pragma once

#include "kernels/cuda/launch.cuh"

namespace headway::cuda::linear {

inline constexpr int kMoreChannels = 8;  // dd twice, and zeros: rows stay multiples of 16 bytes
inline constexpr int kWidenLanes = 8;    // of a row

struct WidenArgs {
  const bf16 *dout, *o, *v;  // [rows,V], V a multiple of 8
  const float* denominator;  // [rows]
  int64_t rows, V;
  bf16 *wide_dn, *wide_v;  // [rows,V+kMoreChannels]
};

__global__ void __launch_bounds__(256) widen_kernel(WidenArgs a) {
  using Eight = Pack<bf16, 8>;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWidenLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWidenLanes;
  const bool exists = row < a.rows;
  const float inverse = exists ? 1 / a.denominator[row] : 0.0f;
  const auto at = [](auto* rows, int64_t index) -> auto& {
    using Element = std::remove_pointer_t<decltype(rows)>;
    return *reinterpret_cast<std::conditional_t<std::is_const_v<Element>, const Eight, Eight>*>(rows + index);
  };
  float sum = 0;
  for (int64_t c = lane * 8; exists && c < a.V; c += kWidenLanes * 8) {
    const Eight dout = at(a.dout, row * a.V + c), o = at(a.o, row * a.V + c);
    Eight dn;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      dn.values[i] = from_float<bf16>(to_float(dout.values[i]) * inverse);
      sum += to_float(dn.values[i]) * to_float(o.values[i]);
    }
    at(a.wide_dn, row * (a.V + kMoreChannels) + c) = dn;
    at(a.wide_v, row * (a.V + kMoreChannels) + c) = at(a.v, row * a.V + c);
  }
#pragma unroll
  for (int offset = kWidenLanes / 2; offset > 0; offset /= 2)
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (!exists || lane > 1) return;
  Eight more{};
  if (lane == 0) {
    more.values[0] = from_float<bf16>(-sum);
    more.values[1] = from_float<bf16>(-sum - to_float(more.values[0]));
  } else {
    more.values[0] = more.values[1] = from_float<bf16>(1);
  }
  at(lane == 0 ? a.wide_dn : a.wide_v, row * (a.V + kMoreChannels) + a.V) = more;
}

}  // namespace headway::cuda::linear
