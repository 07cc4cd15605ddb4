// Figures of a softmax attention that has run, from P_ij = exp(score(S_ij) + delta_j - log_sum_exp_i): no
// matrix is needed.
//
//   sink share (arXiv 2505.06708, section 4.3): mean over sequences, heads and the rows i >= 1 of P_i0
//   entropy: mean over rows of -sum_j P_ij log P_ij, in nats; what a sink takes counts as one more key
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/context.h"
#include "core/tensor.h"
#include "kernels/attention/plan.h"

namespace headway {

/// q [B,T,H,Dh], k [B,T,K,Dh], log_sum_exp [B,H,T]; key_bias and key_end as in the variant's slots.
template <class V>
class AttentionFigures {
 public:
  AttentionFigures(Context& ctx, const typename V::Params& params, double scale, const Tensor& q,
                   const Tensor& k, const Tensor& log_sum_exp, const Tensor& key_bias, const Tensor& key_end)
      : params_(params),
        scale_(scale),
        B_(q.size(0)),
        T_(q.size(1)),
        H_(q.size(2)),
        K_(k.size(2)),
        Dh_(q.size(3)),
        plan_{params, 0, static_cast<int>(T_), static_cast<int>(T_)},
        queries_(to_doubles(q, ctx.stream)),
        log_sum_exp_(to_doubles(log_sum_exp, ctx.stream)),
        keys_(to_doubles(k.slice(0, 0, 1), ctx.stream)) {
    for (int64_t b = 0; b < B_; ++b) {
      const auto first = to_doubles(k.slice(0, b, b + 1).slice(1, 0, 1).reshape({K_, Dh_}), ctx.stream);
      first_keys_.insert(first_keys_.end(), first.begin(), first.end());
    }
    if constexpr (has(V::slots, Slots::key_bias)) biases_ = to_doubles(key_bias, ctx.stream);
    if constexpr (has(V::slots, Slots::key_end)) ends_ = key_end.to_vector<int32_t>(ctx.stream);
  }

  double sink_share() const {
    double total = 0;
    for (int64_t b = 0; b < B_; ++b)
      for (int64_t h = 0; h < H_; ++h)
        for (int64_t i = 1; i < T_; ++i)
          if (sees(b, h, i, 0)) total += std::exp(log_weight(b, h, i, 0, &first_keys_[b * K_ * Dh_]));
    return total / static_cast<double>(B_ * H_ * (T_ - 1));
  }
  /// Of rows with equal weights on all tokens.
  double uniform_sink_share() const {
    double total = 0;
    for (int64_t i = 1; i < T_; ++i) total += 1 / static_cast<double>(i + 1);
    return total / static_cast<double>(T_ - 1);
  }
  /// Over at most kEntropyRows rows i >= 1 of each head of the first sequence.
  double entropy() const {
    const int64_t count = std::min(T_ - 1, kEntropyRows);
    double total = 0;
    for (int64_t h = 0; h < H_; ++h)
      for (int64_t n = 1; n <= count; ++n) total += entropy_of_row(h, (T_ - 1) * n / count);
    return total / static_cast<double>(H_ * count);
  }

 private:
  static constexpr int64_t kEntropyRows = 16;  // a row costs as much as its scores

  bool sees(int64_t b, int64_t h, int64_t i, int64_t j) const {
    return plan_.sees(static_cast<int>(i), static_cast<int>(j)) && (ends_.empty() || i < ends_[key(b, h, j)]);
  }
  /// Of a key that the row sees; keys [K,Dh]: token j's.
  double log_weight(int64_t b, int64_t h, int64_t i, int64_t j, const double* keys) const {
    const double* query = queries_.data() + ((b * T_ + i) * H_ + h) * Dh_;
    const double* other = keys + h / (H_ / K_) * Dh_;
    double dot = 0;
    for (int64_t d = 0; d < Dh_; ++d) dot += query[d] * other[d];
    const Coord at{static_cast<int>(b), static_cast<int>(h), static_cast<int>(i), static_cast<int>(j)};
    double logit = V::score(params_, scale_ * dot, at);
    if (!biases_.empty()) logit += biases_[key(b, h, j)];
    return logit - log_sum_exp_[static_cast<size_t>((b * H_ + h) * T_ + i)];
  }
  double entropy_of_row(int64_t h, int64_t i) const {
    double entropy = 0, rest = 1;
    for (int64_t j = 0; j <= i; ++j) {
      if (!sees(0, h, i, j)) continue;
      const double log_p = log_weight(0, h, i, j, &keys_[j * K_ * Dh_]), p = std::exp(log_p);
      entropy -= p * log_p;
      rest -= p;
    }
    constexpr double kRounding = 1e-6;  // of the log-sum-exp of a pass in float
    return rest > kRounding ? entropy - rest * std::log(rest) : entropy;
  }
  /// In [B,K,T].
  size_t key(int64_t b, int64_t h, int64_t j) const {
    return static_cast<size_t>((b * K_ + h / (H_ / K_)) * T_ + j);
  }

  const typename V::Params& params_;
  double scale_;
  int64_t B_, T_, H_, K_, Dh_;
  TilePlan<V> plan_;
  std::vector<double> queries_, log_sum_exp_, biases_;
  std::vector<double> keys_;        // [T,K,Dh] of the first sequence, all that entropy reads
  std::vector<double> first_keys_;  // [B,K,Dh]
  std::vector<int32_t> ends_;
};

/// Adds "sink_share", "entropy" and "sink_share_uniform", what rows with equal weights on all tokens would
/// have. Nothing for single rows and for continuations. Needs Context::metrics.
template <class V>
void report_attention(Context& ctx, const typename V::Params& params, double scale, const Tensor& q,
                      const Tensor& k, const Tensor& log_sum_exp, const Tensor& key_bias,
                      const Tensor& key_end) {
  if (q.size(1) < 2 || q.size(1) != k.size(1)) return;
  const AttentionFigures<V> figures(ctx, params, scale, q, k, log_sum_exp, key_bias, key_end);
  ctx.metrics->add("sink_share", figures.sink_share());
  ctx.metrics->add("sink_share_uniform", figures.uniform_sink_share());
  ctx.metrics->add("entropy", figures.entropy());
}

}  // namespace headway
