// Figures of a softmax attention that has run, from P_ij = exp(score(S_ij) + delta_j - log_sum_exp_i): no
// matrix is needed.
//
//   sink share (arXiv 2505.06708, section 4.3): mean over sequences, heads and the rows i >= 1 of P_i0
//   sink rate (arXiv 2410.10781, section 3.1): share of heads whose mean of P_i0 over the first 64 rows is
//     above 0.3
//   entropy: mean over rows of -sum_j P_ij log P_ij, in nats; what a sink takes counts as one more key
//   largest logit, of a softmax: the largest score(S_ij) + delta_j. Without a sink it lies between a row's
//     log-sum-exp and log T below that, so it is looked for in the rows of the largest log-sum-exp
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <list>
#include <numeric>
#include <vector>

#include "core/context.h"
#include "core/max_or_nan.h"
#include "core/tensor.h"
#include "kernels/attention/plan.h"
#include "kernels/attention/softmax.h"

namespace headway {

/// Of q [B,T,H,Dh], k [B,T,K,Dh], the variant's slots, and log_sum_exp [B,H,T].
template <class V>
class AttentionFigures {
 public:
  AttentionFigures(Context& ctx, const typename V::Params& params, double scale,
                   const SoftmaxRecord<Tensor>& inputs, const Tensor& log_sum_exp)
      : params_(params),
        scale_(scale),
        B_(inputs.q.size(0)),
        T_(inputs.q.size(1)),
        H_(inputs.q.size(2)),
        K_(inputs.k.size(2)),
        Dh_(inputs.q.size(3)),
        plan_{params, 0, static_cast<int>(T_), static_cast<int>(T_)},
        queries_(to_doubles(inputs.q, ctx.stream)),
        log_sum_exp_(to_doubles(log_sum_exp, ctx.stream)),
        keys_(to_doubles(inputs.k, ctx.stream)) {
    if constexpr (has(V::slots, Slots::key_bias)) biases_ = to_doubles(inputs.key_bias, ctx.stream);
    if constexpr (kHasParameters<V>)
      for_each_slot(
          [&]<class Slot, class Number, int rank>(Slot, View<Number, rank>& view, const Tensor& input) {
            if constexpr (has(kParameterSlots, Slot::info.bit)) {
              if (!input.defined()) return;
              const std::vector<double>& values = parameters_.emplace_back(to_doubles(input, ctx.stream));
              int64_t stride = 1;
              for (int dim = rank - 1; dim >= 0; stride *= view.size[dim], --dim)
                view.size[dim] = input.size(dim), view.stride[dim] = stride;
              view.data = values.data();
            }
          },
          slots_, inputs);
    if constexpr (has(V::slots, Slots::key_end)) ends_ = inputs.key_end.to_vector<int32_t>(ctx.stream);
  }

  double sink_share() const {
    double total = 0;
    int64_t rows = 0;
    for (int64_t b = 0; b < B_; ++b)
      for (int64_t h = 0; h < H_; ++h)
        for (int64_t i = 1; i < T_; ++i)
          if (computes(b, h, i)) ++rows, total += weight_of_first_key(b, h, i);
    return mean(total, rows);
  }
  /// Over the heads of all sequences.
  double sink_rate() const {
    int64_t sinks = 0;
    for (int64_t b = 0; b < B_; ++b)
      for (int64_t h = 0; h < H_; ++h) {
        double total = 0;
        int64_t rows = 0;
        for (int64_t i = 0; i < std::min<int64_t>(T_, 64); ++i)
          if (computes(b, h, i)) ++rows, total += weight_of_first_key(b, h, i);
        sinks += total > 0.3 * static_cast<double>(rows);
      }
    return static_cast<double>(sinks) / static_cast<double>(B_ * H_);
  }
  /// Exact where the rows that are left out cannot hold a larger one, else at most log T too small.
  double largest_logit() const {
    std::vector<int64_t> rows(log_sum_exp_.size());  // [B,H,T]
    std::iota(rows.begin(), rows.end(), int64_t{0});
    const auto count = std::min<ptrdiff_t>(kLogitRows, std::ssize(rows));
    std::ranges::partial_sort(rows, rows.begin() + count, std::greater{},
                              [&](int64_t row) { return log_sum_exp_[static_cast<size_t>(row)]; });
    double largest = -INFINITY;
    for (int64_t n = 0; n < count; ++n) {
      const int64_t row = rows[static_cast<size_t>(n)], b = row / (H_ * T_), h = row / T_ % H_, i = row % T_;
      for (int64_t j = 0; j <= i && computes(b, h, i); ++j)
        if (sees(b, h, i, j)) largest = max_or_nan(largest, logit(b, h, i, j));
    }
    return largest;
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
    int64_t rows = 0;
    for (int64_t h = 0; h < H_; ++h)
      for (int64_t n = 1; n <= count; ++n)
        if (const int64_t i = (T_ - 1) * n / count; computes(0, h, i)) ++rows, total += entropy_of_row(h, i);
    return mean(total, rows);
  }

 private:
  // A row costs as much as its scores.
  static constexpr int64_t kEntropyRows = 16;
  static constexpr ptrdiff_t kLogitRows = 256;

  static double mean(double total, int64_t count) {
    return count > 0 ? total / static_cast<double>(count) : 0;
  }
  /// Rows that row_index does not list have no weights, and are left out.
  bool computes(int64_t b, int64_t h, int64_t i) const {
    return !has(V::slots, Slots::row_index) ||
           log_sum_exp_[static_cast<size_t>((b * H_ + h) * T_ + i)] != -INFINITY;
  }
  bool sees(int64_t b, int64_t h, int64_t i, int64_t j) const {
    return plan_.sees(static_cast<int>(i), static_cast<int>(j)) && (ends_.empty() || i < ends_[key(b, h, j)]);
  }
  /// Of a key that the row sees.
  double logit(int64_t b, int64_t h, int64_t i, int64_t j) const {
    const double* query = queries_.data() + ((b * T_ + i) * H_ + h) * Dh_;
    const double* other = keys_.data() + ((b * T_ + j) * K_ + h / (H_ / K_)) * Dh_;
    double dot = 0;
    for (int64_t d = 0; d < Dh_; ++d) dot += query[d] * other[d];
    const Coord at{static_cast<int>(b), static_cast<int>(h), static_cast<int>(i), static_cast<int>(j)};
    const Learned<double> learned =
        learned_of<V, double>(slots_, params_, static_cast<int>(h / (H_ / K_)), at.query, at);
    const double score = score_of<V>(params_, scale_ * dot, learned, at);
    return biases_.empty() ? score : score + biases_[key(b, h, j)];
  }
  double log_weight(int64_t b, int64_t h, int64_t i, int64_t j) const {
    double x = logit(b, h, i, j);
    if constexpr (!HasLogSumExp<V>) x = std::log(V::Weight::weight(x, [](double y) { return std::exp(y); }));
    return x - log_sum_exp_[static_cast<size_t>((b * H_ + h) * T_ + i)];
  }
  double weight_of_first_key(int64_t b, int64_t h, int64_t i) const {
    return sees(b, h, i, 0) ? std::exp(log_weight(b, h, i, 0)) : 0;
  }
  double entropy_of_row(int64_t h, int64_t i) const {
    double entropy = 0, rest = 1;
    for (int64_t j = 0; j <= i; ++j) {
      if (!sees(0, h, i, j)) continue;
      const double log_p = log_weight(0, h, i, j), p = std::exp(log_p);
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
  std::vector<double> queries_, log_sum_exp_, keys_, biases_;
  std::vector<int32_t> ends_;
  std::list<std::vector<double>> parameters_;
  SlotViews<double> slots_;  // those of parameters
};

/// Adds "sink_share", "sink_share_uniform" (what rows with equal weights on all tokens would have),
/// "sink_rate", "entropy" and, of a softmax, "max_logit". Nothing for single rows, for continuations, and for
/// weights that are not normalised and so no shares. Needs Context::metrics.
template <class V>
void report_attention(Context& ctx, const typename V::Params& params, double scale,
                      const SoftmaxRecord<Tensor>& inputs, const Tensor& log_sum_exp) {
  if constexpr (!V::Weight::is_normalised) return;
  if (inputs.q.size(1) < 2 || inputs.q.size(1) != inputs.k.size(1)) return;
  const AttentionFigures<V> figures(ctx, params, scale, inputs, log_sum_exp);
  ctx.metrics->add("sink_share", figures.sink_share());
  ctx.metrics->add("sink_share_uniform", figures.uniform_sink_share());
  ctx.metrics->add("sink_rate", figures.sink_rate());
  ctx.metrics->add("entropy", figures.entropy());
  if constexpr (HasLogSumExp<V>) ctx.metrics->add("max_logit", figures.largest_logit());
}

}  // namespace headway
