// How the scores of a row become the weights of its keys: the policy `Weight` of a softmax variant. With
// x_ij = score(S_ij) + delta_j, what the variant and its slots make of a score,
//
//   P_ij  = w(x_ij) / N_i                           N_i = sum over visible j of w(x_ij)
//   dA_ij = w'(x_ij) / N_i r_i (dP_ij - D_i)
//
// Where weights are not normalised, N_i is 1 and D_i is left out. In a softmax w = exp, and the kernels keep
// N_i as a log-sum-exp, relative to the row's largest logit. Other weights are functions of one score and
// never negative; the kernels keep log N_i for them.
#pragma once

#include <cmath>
#include <concepts>

#include "core/dual.h"
#include "core/host_device.h"

namespace headway {

/// w = exp, normalised. Results over disjoint keys can be merged, and a row can have a sink.
struct OnlineSoftmax {
  static constexpr bool is_normalised = true;
};

/// w(x) = 1 / (1 + exp(-x)), not normalised (arXiv 2409.04431). The paper adds b = -log n to scores of
/// sequences of n tokens, so that the weights of a row sum to about one at the start of training. Here the
/// variant's score adds it.
struct Sigmoid {
  static constexpr bool is_normalised = false;
  /// exp: the kernel's exponential.
  template <class S, class Exp>
  HEADWAY_HD static S weight(S x, Exp exp) {
    return S(1) / (S(1) + exp(-x));
  }
  template <class S, class Exp>
  HEADWAY_HD static S weight_grad(S x, Exp exp) {
    const S w = weight(x, exp);
    return w * (S(1) - w);
  }
};

/// w(x) = 1 + x + x^2 / 2, normalised: the first terms of exp (arXiv 2402.18668).
struct SecondOrder {
  static constexpr bool is_normalised = true;
  template <class S, class Exp>
  HEADWAY_HD static S weight(S x, Exp) {
    return S(1) + x + S(0.5f) * x * x;
  }
  template <class S, class Exp>
  HEADWAY_HD static S weight_grad(S x, Exp) {
    return S(1) + x;
  }
};

namespace detail {
struct AnyExp {
  template <class S>
  HEADWAY_HD S operator()(S x) const {
    using std::exp;
    return exp(x);
  }
};
template <class W>
concept IsElementwiseWeight = requires(double x, Dual<double> dual) {
  { W::weight(x, AnyExp{}) } -> std::same_as<double>;
  { W::weight(dual, AnyExp{}) } -> std::same_as<Dual<double>>;
};
}  // namespace detail

/// What the kernels take as a variant's Weight.
template <class W>
concept IsWeight = std::same_as<W, OnlineSoftmax> ||(detail::IsElementwiseWeight<W>&& requires {
  { W::is_normalised } -> std::convertible_to<bool>;
});

/// Whether the weights of a variant are those of a softmax, whose denominator has a log-sum-exp.
template <class V>
concept HasLogSumExp = std::same_as<typename V::Weight, OnlineSoftmax>;

/// d w / d x, from dual numbers unless the policy has weight_grad.
template <class W, class S, class Exp>
HEADWAY_HD S weight_slope(S x, Exp exp) {
  if constexpr (requires { W::weight_grad(x, exp); })
    return W::weight_grad(x, exp);
  else
    return W::weight(Dual<S>{x, S(1)}, detail::AnyExp{}).eps;
}

/// What backward needs of a pair: P_ij, and its derivative by x_ij as if N_i were constant.
template <class S>
struct WeightAndSlope {
  S value;
  S slope;
};

/// For backward, what log N_i of a row becomes before its pairs are weighed: itself in a softmax, else 1 /
/// N_i; zero for rows without a key.
template <class V, class S, class Exp>
HEADWAY_HD S row_norm(S log_denominator, Exp exp) {
  if constexpr (HasLogSumExp<V>)
    return log_denominator;
  else
    return log_denominator == -S(INFINITY) ? S(0) : exp(-log_denominator);
}
/// x: the logit of a pair that is seen. norm: that of its row, as row_norm returns it.
template <class V, class S, class Exp>
HEADWAY_HD WeightAndSlope<S> pair_weight(S x, S norm, Exp exp) {
  if constexpr (HasLogSumExp<V>) {
    const S weight = exp(x - norm);
    return {weight, weight};
  } else {
    return {V::Weight::weight(x, exp) * norm, weight_slope<typename V::Weight>(x, exp) * norm};
  }
}

}  // namespace headway
