// What one kind of softmax attention may choose: its slots (optional inputs of the core, slots.h) and its
// policies (which keys a row sees, what happens to a score, how scores become weights: weights.h). The core
// computes, for the query at position i,
//
//   S_ij = scale * q_i.k_j          P_ij = softmax over visible j of ( score(S_ij) + delta_j )
//   Y_i  = sum_j P_ij v_j           C_i  = sum over visible j of v_j         O_i = r_i Y_i + beta_i C_i
//
// A variant is a struct derived from SoftmaxVariant that hides the defaults it wants to replace. Hooks are
// pure functions of their arguments, run on the host and in kernels alike, and see scores in natural units.
#pragma once

#include <concepts>
#include <cstdint>

#include "core/dual.h"
#include "core/host_device.h"
#include "kernels/attention/slots.h"
#include "kernels/attention/weights.h"

namespace headway {

/// Which score a hook is asked about. Positions count from the first key, for queries and keys alike.
struct Coord {
  int batch;
  int head;  // query head
  int query;
  int key;
};

/// The slots whose learned numbers a score may depend on.
inline constexpr Slots kParameterSlots = Slots::head_parameter | Slots::row_parameter | Slots::key_parameter;

/// What these hold for a pair; zero for a slot that the variant does not declare. Handed on by value, as
/// references to it keep GCC from vectorising the loops of the CPU kernels.
template <class S>
struct Learned {
  S head = S(0), row = S(0), key = S(0);
};

/// First key that position i sees of a window of the latest keys, its own included; 0: no window.
HEADWAY_HD constexpr int window_begin(int window, int i) {
  return window == 0 || i < window ? 0 : i - window + 1;
}

/// The defaults: plain causal attention.
struct SoftmaxVariant {
  /// Position i sees the keys begin(i, n) <= j < end(i, n) of each interval n. Neither function may decrease
  /// with i; which tiles a kernel visits is derived from them. They are clamped to the existing keys.
  static constexpr int intervals = 1;
  static constexpr Slots slots = Slots::none;
  using Weight = OnlineSoftmax;
  /// Set by WithDropout (weight_dropout.h), whose Params tell which weights are dropped.
  static constexpr bool drops_weights = false;
  struct Params {};

  template <class P>
  HEADWAY_HD static int begin(const P&, int /*i*/, int /*interval*/) {
    return 0;
  }
  template <class P>
  HEADWAY_HD static int end(const P&, int i, int /*interval*/) {
    return i + 1;
  }
  /// Elementwise map of the scaled score. Its derivative comes from dual numbers, unless the variant also
  /// has score_grad(params, s, coord).
  template <class P, class S>
  HEADWAY_HD static S score(const P&, S s, Coord) {
    return s;
  }
  /// A variant that declares slots of parameters takes a Learned<S> before the Coord, by which its score is
  /// differentiated too; so does its score_grad. Of its head's parameters a pair reads one, by default the
  /// only one.
  template <class P>
  HEADWAY_HD static int num_head_parameters(const P&) {
    return 1;
  }
  /// Which of them, from 0.
  template <class P>
  HEADWAY_HD static int head_parameter(const P&, Coord) {
    return 0;
  }
};

template <class V>
inline constexpr bool kHasParameters = has(V::slots, kParameterSlots);

/// Causal attention to a window of the latest keys, the token's own included; 0: to everything before it.
/// What variants of another score or with slots derive from to have a window too.
struct WindowVariant : SoftmaxVariant {
  struct Params {
    int window = 0;
  };
  HEADWAY_HD static int begin(const Params& params, int i, int) { return window_begin(params.window, i); }
};

namespace detail {
template <class V, class S>
concept ScoresAlone = !kHasParameters<V> && requires(const typename V::Params& params, S s, Coord at) {
  { V::score(params, s, at) } -> std::same_as<S>;
};
template <class V, class S>
concept ScoresIn = ScoresAlone<V, S> ||
    (kHasParameters<V>&& requires(const typename V::Params& params, S s, Learned<S> learned, Coord at) {
      { V::score(params, s, learned, at) } -> std::same_as<S>;
    });
}  // namespace detail

template <class V>
concept IsSoftmaxVariant = std::derived_from<V, SoftmaxVariant> &&
    requires(const typename V::Params& params) {
  { V::begin(params, 0, 0) } -> std::same_as<int>;
  { V::end(params, 0, 0) } -> std::same_as<int>;
  requires V::intervals >= 1;
  { V::slots } -> std::convertible_to<Slots>;
} && IsWeight<typename V::Weight> && detail::ScoresIn<V, double> && detail::ScoresIn<V, float> &&
    detail::ScoresIn<V, Dual<double>>;

namespace detail {
/// A function as a type. Types can be compared where addresses cannot: under the undefined-behaviour
/// sanitizer GCC calls a comparison of functions no constant expression.
template <auto kFunction>
struct Hook {};
}  // namespace detail

/// Whether a variant's slots go with its weights: a sink is a logit in the denominator of a softmax.
template <class V>
inline constexpr bool kSlotsFitWeights = HasLogSumExp<V> || !has(V::slots, Slots::sink);

/// Whether a variant leaves scores as they are, because it does not hide the default.
template <class V>
inline constexpr bool kHasDefaultScore = [] {
  using Score = float (*)(const typename V::Params&, float, Coord);
  if constexpr (requires { static_cast<Score>(&V::score); })
    return std::same_as<detail::Hook<static_cast<Score>(&V::score)>,
                        detail::Hook<static_cast<Score>(&SoftmaxVariant::score)>>;
  else
    return false;
}();

namespace detail {
template <class V>
using Bound = int (*)(const typename V::Params&, int, int);
/// Whether V's keys are those of Other, because neither hides the other's functions.
template <class V, class Other>
inline constexpr bool kHasMaskOf = [] {
  if constexpr (V::intervals == 1 && requires {
                  static_cast<Bound<V>>(&V::begin);
                  static_cast<Bound<V>>(&V::end);
                  static_cast<Bound<V>>(&Other::begin);
                  static_cast<Bound<V>>(&Other::end);
                })
    return std::same_as<Hook<static_cast<Bound<V>>(&V::begin)>, Hook<static_cast<Bound<V>>(&Other::begin)>> &&
           std::same_as<Hook<static_cast<Bound<V>>(&V::end)>, Hook<static_cast<Bound<V>>(&Other::end)>>;
  else
    return false;
}();
}  // namespace detail

/// Whether a variant's rows see what those of plain causal attention see.
template <class V>
inline constexpr bool kHasCausalMask = detail::kHasMaskOf<V, SoftmaxVariant>;
/// Whether they see what those of WindowVariant do, for the same parameters.
template <class V>
inline constexpr bool kHasWindowMask = [] {
  if constexpr (std::same_as<typename V::Params, WindowVariant::Params>)
    return detail::kHasMaskOf<V, WindowVariant>;
  else
    return false;
}();

/// d score / d s at s, of a variant without slots of parameters.
template <class V, class S>
HEADWAY_HD S score_slope(const typename V::Params& params, S s, Coord at) {
  if constexpr (requires { V::score_grad(params, s, at); })
    return V::score_grad(params, s, at);
  else
    return V::score(params, Dual<S>{s, S(1)}, at).eps;
}

/// Which of its head's parameters a pair reads. Kernels ask about pairs that are not seen too, for which the
/// hook may say anything.
template <class V>
HEADWAY_HD int parameter_index(const typename V::Params& params, Coord at) {
  const int index = V::head_parameter(params, at), last = V::num_head_parameters(params) - 1;
  return index < 0 ? 0 : index > last ? last : index;
}

/// score(s) of any variant.
template <class V, class S>
HEADWAY_HD S score_of(const typename V::Params& params, S s, Learned<S> learned, Coord at) {
  if constexpr (kHasParameters<V>)
    return V::score(params, s, learned, at);
  else
    return V::score(params, s, at);
}

/// Derivatives of a score by its argument and by the parameters that it reads.
template <class S>
struct ScoreSlopes {
  S score;
  Learned<S> learned;
};
template <class V, class S>
HEADWAY_HD ScoreSlopes<S> score_slopes(const typename V::Params& params, S s, Learned<S> learned, Coord at) {
  if constexpr (kHasParameters<V>) {
    const auto derivative = [&](S by_score, S by_head, S by_row, S by_key) {
      const Learned<Dual<S>> dual{{learned.head, by_head}, {learned.row, by_row}, {learned.key, by_key}};
      return V::score(params, Dual<S>{s, by_score}, dual, at).eps;
    };
    ScoreSlopes<S> slopes;
    if constexpr (requires { V::score_grad(params, s, learned, at); })
      slopes.score = V::score_grad(params, s, learned, at);
    else
      slopes.score = derivative(1, 0, 0, 0);
    if constexpr (has(V::slots, Slots::head_parameter)) slopes.learned.head = derivative(0, 1, 0, 0);
    if constexpr (has(V::slots, Slots::row_parameter)) slopes.learned.row = derivative(0, 0, 1, 0);
    if constexpr (has(V::slots, Slots::key_parameter)) slopes.learned.key = derivative(0, 0, 0, 1);
    return slopes;
  } else {
    return {score_slope<V>(params, s, at), {}};
  }
}

}  // namespace headway
