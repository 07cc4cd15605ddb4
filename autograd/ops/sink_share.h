// How much attention the first token gets (arXiv 2505.06708, section 4.3): the mean over sequences, heads and
// the rows i >= 1 of P_i0 = exp(score(S_i0) + delta_0 - log_sum_exp_i). No matrix is needed.
#pragma once

#include <cmath>

#include "core/context.h"
#include "core/tensor.h"
#include "kernels/attention/plan.h"

namespace headway {

/// Adds "sink_share", and "sink_share_uniform", what rows with equal weights on all tokens would have.
/// q [B,T,H,Dh], k [B,Tk,K,Dh], log_sum_exp [B,H,T] of a pass that has run; key_bias and key_end as in the
/// variant's slots. Nothing for single rows and for continuations. Needs Context::metrics.
template <class V>
void report_sink_share(Context& ctx, const typename V::Params& params, double scale, const Tensor& q,
                       const Tensor& k, const Tensor& log_sum_exp, const Tensor& key_bias,
                       const Tensor& key_end) {
  const int64_t B = q.size(0), T = q.size(1), H = q.size(2), Dh = q.size(3), K = k.size(2), Tk = k.size(1);
  if (T < 2 || T != Tk) return;
  const std::vector<double> queries = to_doubles(q, ctx.stream), lse = to_doubles(log_sum_exp, ctx.stream);
  std::vector<double> biases;
  std::vector<int32_t> ends;
  if constexpr (has(V::slots, Slots::key_bias)) biases = to_doubles(key_bias, ctx.stream);
  if constexpr (has(V::slots, Slots::key_end)) ends = key_end.to_vector<int32_t>(ctx.stream);
  const TilePlan<V> plan{params, 0, static_cast<int>(T), static_cast<int>(Tk)};

  double total = 0, uniform = 0;
  for (int64_t b = 0; b < B; ++b) {
    const std::vector<double> first_keys =
        to_doubles(k.slice(0, b, b + 1).slice(1, 0, 1).reshape({K, Dh}), ctx.stream);
    for (int64_t h = 0; h < H; ++h) {
      const int64_t kv = h / (H / K);
      for (int64_t i = 1; i < T; ++i) {
        if (!plan.sees(static_cast<int>(i), 0)) continue;
        if (!ends.empty() && i >= ends[static_cast<size_t>((b * K + kv) * Tk)]) continue;
        double dot = 0;
        for (int64_t d = 0; d < Dh; ++d)
          dot += queries[static_cast<size_t>(((b * T + i) * H + h) * Dh + d)] *
                 first_keys[static_cast<size_t>(kv * Dh + d)];
        const Coord at{static_cast<int>(b), static_cast<int>(h), static_cast<int>(i), 0};
        double logit = V::score(params, scale * dot, at);
        if (!biases.empty()) logit += biases[static_cast<size_t>((b * K + kv) * Tk)];
        total += std::exp(logit - lse[static_cast<size_t>((b * H + h) * T + i)]);
      }
    }
  }
  for (int64_t i = 1; i < T; ++i) uniform += 1 / static_cast<double>(i + 1);
  ctx.metrics->add("sink_share", total / static_cast<double>(B * H * (T - 1)));
  ctx.metrics->add("sink_share_uniform", uniform / static_cast<double>(T - 1));
}

}  // namespace headway
