// The definition of the softmax core (equations in softmax_variant.h and softmax.h): naive loops over every
// pair, no tiles, no plan. What the fast kernels are tested against, and the double kernel itself.
//
// Generic in the numbers: Exact<S> computes in S; a policy whose operand() rounds what a tensor core would
// read (q, k, v, dO and the tiles P and dS) shows how much error that rounding costs.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/attention/plan.h"
#include "kernels/attention/softmax.h"
#include "kernels/cpu/parallel.h"

namespace headway {

template <class S>
struct Exact {
  using Real = S;
  static S operand(S x) { return x; }
};

namespace detail {

/// One row of the score matrix of one query head, as both directions need it.
template <class Numbers, class V, class Args>
class ReferenceRow {
 public:
  using Real = typename Numbers::Real;

  ReferenceRow(const Args& args, int b, int h, int t)
      : args_(args),
        plan_{args.params, static_cast<int>(args.query_offset), static_cast<int>(args.q.size[1]),
              static_cast<int>(args.k.size[1])},
        b_(b),
        h_(h),
        t_(t),
        kv_(h / static_cast<int>(args.q.size[2] / args.k.size[2])) {}

  bool sees(int j) const {
    if constexpr (has(V::slots, Slots::key_end))
      if (plan_.query_offset + t_ >= args_.slots.key_end(b_, kv_, j)) return false;
    return plan_.sees(t_, j);
  }
  Coord at(int j) const { return {b_, h_, plan_.query_offset + t_, j}; }
  Learned<Real> learned(int j) const {
    return learned_of<V, Real>(args_.slots, args_.params, kv_, t_, at(j));
  }
  /// S_ij
  Real raw_score(int j) const {
    const auto* q = &args_.q(b_, t_, h_, 0);
    const auto* k = &args_.k(b_, j, kv_, 0);
    const int64_t Dh = args_.q.size[3];
    Real dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t d = 0; d < Dh; ++d)
      dot += Numbers::operand(static_cast<Real>(q[d])) * Numbers::operand(static_cast<Real>(k[d]));
    return dot * static_cast<Real>(args_.scale);
  }
  /// What the softmax sees: score(S_ij) + delta_j
  Real logit(int j, Real raw) const {
    Real logit = score_of<V>(args_.params, raw, learned(j), at(j));
    if constexpr (has(V::slots, Slots::key_bias))
      logit += static_cast<Real>(args_.slots.key_bias(b_, kv_, j));
    return logit;
  }
  /// Of a pair that is seen; a softmax's relative to the row's largest logit.
  Real weight(Real logit, Real maximum) const {
    if constexpr (HasLogSumExp<V>)
      return std::exp(logit - maximum);
    else
      return V::Weight::weight(logit, kExp);
  }
  /// norm: of the row, as row_norm returns it.
  WeightAndSlope<Real> weight_and_slope(Real logit, Real norm) const {
    return pair_weight<V>(logit, norm, kExp);
  }
  /// x times Z_ij of weight_dropout.h
  Real dropped(int j, Real x) const {
    if constexpr (V::drops_weights)
      return x * static_cast<Real>(args_.params.dropout.factor(b_, h_, t_, j));
    else
      return x;
  }
  Real row_scale() const {
    if constexpr (has(V::slots, Slots::row_scale))
      return static_cast<Real>(args_.slots.row_scale(b_, h_, t_));
    return 1;
  }
  Real row_bias() const {
    if constexpr (has(V::slots, Slots::row_bias)) return static_cast<Real>(args_.slots.row_bias(b_, h_, t_));
    return 0;
  }

 private:
  static constexpr detail::AnyExp kExp{};

  const Args& args_;
  TilePlan<V> plan_;
  int b_, h_, t_, kv_;
};

/// Whether there are scores enough to share among threads.
template <class Args>
bool is_worth_a_team(const Args& args) {
  return args.q.size[0] * args.q.size[2] * args.q.size[1] * args.k.size[1] >= kSmallestParallel;
}

/// The rows of q that head h computes: all, or those its row_index lists.
template <class V, class Args>
std::vector<int> reference_rows(const Args& args, int b, int h) {
  std::vector<int> rows;
  if constexpr (has(V::slots, Slots::row_index)) {
    const auto& index = args.slots.row_index;
    for (int64_t n = 0; n < index.size[2] && index(b, h, n) >= 0; ++n) rows.push_back(index(b, h, n));
  } else {
    for (int t = 0; t < static_cast<int>(args.q.size[1]); ++t) rows.push_back(t);
  }
  return rows;
}

}  // namespace detail

template <class Numbers, class V, class T>
void softmax_reference_forward(const SoftmaxForward<V, T>& args, Stream&) {
  using Real = typename Numbers::Real;
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  const int B = static_cast<int>(args.q.size[0]), T_ = static_cast<int>(args.q.size[1]),
            H = static_cast<int>(args.q.size[2]), Dv = static_cast<int>(args.v.size[3]),
            Tk = static_cast<int>(args.k.size[1]), group = H / static_cast<int>(args.k.size[2]);

#pragma omp parallel for collapse(2) schedule(dynamic) if (detail::is_worth_a_team(args))
  for (int b = 0; b < B; ++b)
    for (int h = 0; h < H; ++h) {
      const int kv = h / group;
      std::vector<Real> logit(Tk), y(Dv), c(Dv);
      for (int t = 0; t < T_ && has(V::slots, Slots::row_index); ++t) {  // rows that are not listed
        args.log_sum_exp(b, h, t) = -std::numeric_limits<Acc<T>>::infinity();
        for (int d = 0; d < Dv; ++d) args.o(b, t, h, d) = 0;
        for (int d = 0; d < Dv && kScalesRows<V> && args.y; ++d) args.y(b, t, h, d) = 0;
      }
      for (const int t : detail::reference_rows<V>(args, b, h)) {
        const detail::ReferenceRow<Numbers, V, SoftmaxForward<V, T>> row(args, b, h, t);
        Real maximum = HasLogSumExp<V> ? -kInfinity : Real(0);
        if constexpr (has(V::slots, Slots::sink)) maximum = static_cast<Real>(args.slots.sink(h));
        for (int j = 0; j < Tk; ++j) {
          logit[j] = row.sees(j) ? row.logit(j, row.raw_score(j)) : -kInfinity;
          if constexpr (HasLogSumExp<V>) maximum = logit[j] > maximum ? logit[j] : maximum;
        }
        Real sum = 0;
        if constexpr (has(V::slots, Slots::sink))
          sum = std::exp(static_cast<Real>(args.slots.sink(h)) - maximum);
        std::fill(y.begin(), y.end(), Real(0));
        std::fill(c.begin(), c.end(), Real(0));
        for (int j = 0; j < Tk; ++j) {
          if (!row.sees(j)) continue;
          const Real weight = row.weight(logit[j], maximum);
          sum += weight;
          const Real dropped = row.dropped(j, weight);
          const auto* v = &args.v(b, j, kv, 0);
          for (int d = 0; d < Dv; ++d) {
            const Real value = Numbers::operand(static_cast<Real>(v[d]));
            y[d] += Numbers::operand(dropped) * value;
            c[d] += value;
          }
        }
        if constexpr (!V::Weight::is_normalised) sum = 1;
        // A sum of zero means a row without keys. A sum that is NaN is not zero, so it reaches the output.
        args.log_sum_exp(b, h, t) = static_cast<Acc<T>>(sum == 0 ? -kInfinity : maximum + std::log(sum));
        for (int d = 0; d < Dv; ++d) {
          y[d] = sum == 0 ? 0 : y[d] / sum;
          args.o(b, t, h, d) = static_cast<T>(row.row_scale() * y[d] + row.row_bias() * c[d]);
          if (kScalesRows<V> && args.y) args.y(b, t, h, d) = static_cast<T>(y[d]);
        }
      }
    }
}

/// D_i is summed from its definition, so args.y is not read.
template <class Numbers, class V, class T>
void softmax_reference_backward(const SoftmaxBackward<V, T>& args, Stream&) {
  using Real = typename Numbers::Real;
  const int B = static_cast<int>(args.q.size[0]), T_ = static_cast<int>(args.q.size[1]),
            H = static_cast<int>(args.q.size[2]), Dh = static_cast<int>(args.q.size[3]),
            Tk = static_cast<int>(args.k.size[1]), K = static_cast<int>(args.k.size[2]), group = H / K,
            Dv = static_cast<int>(args.v.size[3]);
  const Real scale = static_cast<Real>(args.scale);
  const int num_parameters = V::num_head_parameters(args.params);  // of a head
  std::vector<Real> dsink(static_cast<size_t>(B) * H, Real(0));    // of each batch and head
  std::vector<Real> dhead(static_cast<size_t>(B) * H * num_parameters, Real(0));

#pragma omp parallel for collapse(2) schedule(dynamic) if (detail::is_worth_a_team(args))
  for (int b = 0; b < B; ++b)
    for (int kv = 0; kv < K; ++kv) {
      std::vector<Real> dk(static_cast<size_t>(Tk) * Dh), dv(static_cast<size_t>(Tk) * Dv), ddelta(Tk),
          dkey(Tk), raw(Tk), weight(Tk), slope(Tk), dp(Tk), dq(Dh);
      for (int h = kv * group; h < (kv + 1) * group; ++h) {
        for (int t = 0; t < T_ && has(V::slots, Slots::row_index); ++t) {  // rows that are not listed
          for (int d = 0; d < Dh; ++d) args.dq(b, t, h, d) = 0;
          detail::clear_row_gradients(args.dslots, b, h, t);
        }
        for (const int t : detail::reference_rows<V>(args, b, h)) {
          const detail::ReferenceRow<Numbers, V, SoftmaxBackward<V, T>> row(args, b, h, t);
          const Real lse = static_cast<Real>(args.log_sum_exp(b, h, t));
          const Real norm = row_norm<V>(lse, detail::AnyExp{});
          const auto* g = &args.dout(b, t, h, 0);
          Real drow = 0, row_dot = 0, dbias = 0;  // of row_parameter, D_i = G_i.Y_i and G_i.C_i
          for (int j = 0; j < Tk; ++j) {
            if (!row.sees(j)) continue;
            raw[j] = row.raw_score(j);
            const WeightAndSlope<Real> pair = row.weight_and_slope(row.logit(j, raw[j]), norm);
            weight[j] = pair.value, slope[j] = pair.slope;
            const auto* v = &args.v(b, j, kv, 0);
            dp[j] = 0;
            for (int d = 0; d < Dv; ++d)
              dp[j] += Numbers::operand(static_cast<Real>(g[d])) * Numbers::operand(static_cast<Real>(v[d]));
            row_dot += weight[j] * row.dropped(j, dp[j]);
            dbias += dp[j];
          }
          const Real centre = V::Weight::is_normalised ? row_dot : Real(0);
          std::fill(dq.begin(), dq.end(), Real(0));
          for (int j = 0; j < Tk; ++j) {
            if (!row.sees(j)) continue;
            const Real da = slope[j] * row.row_scale() * (row.dropped(j, dp[j]) - centre);
            const ScoreSlopes<Real> slopes = score_slopes<V>(args.params, raw[j], row.learned(j), row.at(j));
            const Real ds = Numbers::operand(da * slopes.score);
            const Real a = Numbers::operand(row.row_scale() * row.dropped(j, weight[j]) + row.row_bias());
            ddelta[j] += da;
            drow += da * slopes.learned.row;
            dkey[j] += da * slopes.learned.key;
            if constexpr (has(V::slots, Slots::head_parameter))
              dhead[(b * H + h) * num_parameters + parameter_index<V>(args.params, row.at(j))] +=
                  da * slopes.learned.head;
            for (int d = 0; d < Dh; ++d) {
              dq[d] += ds * Numbers::operand(static_cast<Real>(args.k(b, j, kv, d)));
              dk[static_cast<size_t>(j) * Dh + d] +=
                  ds * Numbers::operand(static_cast<Real>(args.q(b, t, h, d)));
            }
            for (int d = 0; d < Dv; ++d)
              dv[static_cast<size_t>(j) * Dv + d] += a * Numbers::operand(static_cast<Real>(g[d]));
          }
          for (int d = 0; d < Dh; ++d) args.dq(b, t, h, d) = static_cast<T>(scale * dq[d]);
          if (args.dslots.row_scale) args.dslots.row_scale(b, h, t) = static_cast<Acc<T>>(row_dot);
          if (args.dslots.row_bias) args.dslots.row_bias(b, h, t) = static_cast<Acc<T>>(dbias);
          if (args.dslots.row_parameter) args.dslots.row_parameter(b, h, t) = static_cast<Acc<T>>(drow);
          if constexpr (has(V::slots, Slots::sink))
            dsink[b * H + h] -=
                std::exp(static_cast<Real>(args.slots.sink(h)) - lse) * row.row_scale() * row_dot;
        }
      }
      for (int j = 0; j < Tk; ++j) {
        if (args.dslots.key_bias) args.dslots.key_bias(b, kv, j) = static_cast<Acc<T>>(ddelta[j]);
        if (args.dslots.key_parameter) args.dslots.key_parameter(b, kv, j) = static_cast<Acc<T>>(dkey[j]);
        for (int d = 0; d < Dh; ++d)
          args.dk(b, j, kv, d) = static_cast<T>(scale * dk[static_cast<size_t>(j) * Dh + d]);
        for (int d = 0; d < Dv; ++d)
          args.dv(b, j, kv, d) = static_cast<T>(dv[static_cast<size_t>(j) * Dv + d]);
      }
    }
  for (int h = 0; h < H && args.dslots.sink; ++h) {
    Real sum = 0;
    for (int b = 0; b < B; ++b) sum += dsink[b * H + h];
    args.dslots.sink(h) = static_cast<Acc<T>>(sum);
  }
  for (int h = 0; h < H && args.dslots.head_parameter; ++h)
    for (int p = 0; p < num_parameters; ++p) {
      Real sum = 0;
      for (int b = 0; b < B; ++b) sum += dhead[(b * H + h) * num_parameters + p];
      args.dslots.head_parameter(h, p) = static_cast<Acc<T>>(sum);
    }
}

}  // namespace headway
