// A warp owns a row and goes over its keys twice, 32 at a time: lane j scores the j-th. First a
// softmax's largest score, which no order changes; then, in the order of the keys and leaving out those the
// row does not see, the sums of weights and of weighted values, of which a lane holds channels lane, lane +
// 32, ...
#pragma once

#include <cmath>

#include "kernels/attention/softmax_by_rows.h"
#include "kernels/cuda/attention/score.cuh"

namespace headway::cuda::by_rows {

inline constexpr int kWarps = 4, kMaxHeadDim = 256, kPerLane = kMaxHeadDim / kWarp;

/// kPack: elements of q and k that move at a time; it changes no sum.
template <class V, class T, int kPack>
__global__ void __launch_bounds__(kWarps* kWarp) forward_kernel(SoftmaxByRows<V, T> a) {
  const int lane = threadIdx.x % kWarp, t = static_cast<int>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (t >= a.q.size[1]) return;
  const int Dh = static_cast<int>(a.q.size[3]), Dv = static_cast<int>(a.v.size[3]);
  const Pairs<V, SoftmaxForward<V, T>> pairs(a, blockIdx.z, blockIdx.y);
  const int b = pairs.batch, h = pairs.head, kv = pairs.kv;
  const bool computes = pairs.computes(t);
  const IndexRange range = pairs.plan.keys_of(t, t);
  /// Of the lane's key of those from `first` on; -inf where the row does not see it.
  const auto logit = [&](int first) {
    const int j = first + lane;
    if (j >= range.last || !pairs.sees(t, j)) return -INFINITY;
    float dot = 0;
    for (int d = 0; d < Dh; d += kPack) {
      const auto q = *reinterpret_cast<const Pack<T, kPack>*>(&a.q(b, t, h, d));
      const auto k = *reinterpret_cast<const Pack<T, kPack>*>(&a.k(b, j, kv, d));
#pragma unroll
      for (int v = 0; v < kPack; ++v) dot += to_float(q.values[v]) * to_float(k.values[v]);
    }
    return pairs.logit(dot * static_cast<float>(a.scale), t, j);
  };

  float largest = HasLogSumExp<V> ? -INFINITY : 0.0f, total = 0, sums[kPerLane] = {}, visible[kPerLane] = {};
  if constexpr (has(V::slots, Slots::sink)) largest = a.slots.sink(h);
  for (int first = range.first; HasLogSumExp<V> && computes && first < range.last; first += kWarp)
    largest = fmaxf(largest, warp_max(logit(first)));
  if constexpr (has(V::slots, Slots::sink)) total = expf(a.slots.sink(h) - largest);
  for (int first = range.first; computes && first < range.last; first += kWarp) {
    const float x = logit(first);
    const bool sees = first + lane < range.last && pairs.sees(t, first + lane);
    float weight = 0;
    if constexpr (HasLogSumExp<V>)
      weight = sees ? expf(x - largest) : 0.0f;
    else if (sees)
      weight = pairs.weight(x);
    for (unsigned left = __ballot_sync(0xffffffffu, sees); left != 0; left &= left - 1) {
      const int from = __ffs(static_cast<int>(left)) - 1;
      const float w = __shfl_sync(0xffffffffu, weight, from);
      total += w;
#pragma unroll
      for (int c = 0; c < kPerLane; ++c)
        if (const int d = lane + c * kWarp; d < Dv) {
          const float value = to_float(a.v(b, first + from, kv, d));
          sums[c] += w * value;
          if constexpr (has(V::slots, Slots::row_bias)) visible[c] += value;
        }
    }
  }
  if (!V::Weight::is_normalised && computes) total = 1;
  // A sum of zero means a row without keys. A sum that is NaN is not zero, so it reaches the output.
  const bool is_empty = total == 0;
  const float row_scale = computes ? pairs.row_scale(t) : 0.0f,
              row_bias = computes ? pairs.row_bias(t) : 0.0f;
  for (int c = 0; c < kPerLane; ++c) {
    const int d = lane + c * kWarp;
    if (d >= Dv) continue;
    const float y = is_empty ? 0.0f : sums[c] / total;
    a.o(b, t, h, d) = from_float<T>(row_scale * y + row_bias * visible[c]);
    if (kScalesRows<V> && a.y) a.y(b, t, h, d) = from_float<T>(y);
  }
  if (lane == 0) a.log_sum_exp(b, h, t) = is_empty ? -INFINITY : largest + logf(total);
}

template <class V, class T>
void forward(const SoftmaxByRows<V, T>& args, Stream& stream) {
  const auto& q = args.q.size;
  if (q[0] * q[1] * q[2] == 0) return;
  const int64_t head_dim = std::max(q[3], args.v.size[3]);
  HEADWAY_CHECK(head_dim <= kMaxHeadDim, ShapeError,
                std::string(args.name) + ": a head of " + std::to_string(head_dim) +
                    " channels is wider than the " + std::to_string(kMaxHeadDim) + " the GPU kernels take");
  constexpr int kPack = 16 / sizeof(T);
  const bool wide = moves_in_packs<kPack>(args.q) && moves_in_packs<kPack>(args.k);
  const auto kernel = wide ? forward_kernel<V, T, kPack> : forward_kernel<V, T, 1>;
  const dim3 grid(blocks_for(q[1], kWarps), static_cast<unsigned>(q[2]), static_cast<unsigned>(q[0]));
  kernel<<<grid, kWarps * kWarp, 0, stream.native()>>>(args);
  check_launch(args.name);
}

}  // namespace headway::cuda::by_rows
