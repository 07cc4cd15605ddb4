// The softmax attention core as an operation: argument structs of its two directions (equations in
// softmax_variant.h). Positions: query row t stands at position query_offset + t among the keys 0..Tk-1, so
// training has query_offset = 0 and Tk = T, and decoding with a cache of n keys has query_offset = n, Tk = n
// + T. Values may be wider or narrower than keys: Dv channels, and so has the output. Grouped queries: query
// head h reads key/value head h / (H / K).
//
// Backward, with G = dO, dP_ij = G_i.v_j and D_i = G_i.Y_i:
//   dA_ij = P_ij r_i (dP_ij - D_i)           gradient at the softmax's input
//   dS_ij = dA_ij score'(S_ij)               dq_i = scale sum_j dS_ij k_j     dk_j = scale sum_i dS_ij q_i
//   dv_j  = sum_i (r_i P_ij + beta_i) G_i    dr_i = D_i                       dbeta_i = G_i.C_i
//   gradient of a parameter that score reads: the sum of dA_ij times its derivative by it
//   ddelta_j = sum_i dA_ij                   dsink = - sum_i exp(sink - LSE_i) r_i D_i
// Sums over i run over the visible pairs and, for what belongs to a key, over the query heads of its group.
// Other weights than a softmax's have another dA (weights.h), and the logarithm of their denominator stands
// where LSE does: 0 where they are not normalised. A row without a key has o = 0 and LSE = -inf (LSE = sink
// with that slot) and contributes no gradient.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include "core/dtype.h"
#include "core/host_device.h"
#include "core/view.h"
#include "kernels/attention/softmax_variant.h"
#include "kernels/op.h"

namespace headway {

/// Whether O differs from Y.
template <class V>
inline constexpr bool kScalesRows = has(V::slots, Slots::row_scale | Slots::row_bias);
/// Whether O is r_i Y_i with scales that are not zero, because such rows need not be listed: backward divides
/// them out of what it finds with O.
template <class V>
inline constexpr bool kDividesScale = has(V::slots, Slots::row_scale) && has(V::slots, Slots::row_index) &&
                                      !has(V::slots, Slots::row_bias);
/// Whether backward needs Y beside O.
template <class V>
inline constexpr bool kKeepsY = kScalesRows<V> && !kDividesScale<V>;

/// D_i from the product of G_i with the row of Y, or of O, that backward has.
template <class V, class A>
HEADWAY_HD A row_dot_of(A product, A row_scale) {
  if constexpr (kDividesScale<V>) return product / row_scale;
  return product;
}

/// Of query row t at `at`, which reads key/value head kv.
template <class V, class S, class A>
HEADWAY_HD Learned<S> learned_of(const SlotViews<A>& slots, const typename V::Params& params, int kv, int t,
                                 Coord at) {
  Learned<S> learned;
  if constexpr (has(V::slots, Slots::head_parameter))
    learned.head = static_cast<S>(slots.head_parameter(at.head, parameter_index<V>(params, at)));
  if constexpr (has(V::slots, Slots::row_parameter))
    learned.row = static_cast<S>(slots.row_parameter(at.batch, at.head, t));
  if constexpr (has(V::slots, Slots::key_parameter))
    learned.key = static_cast<S>(slots.key_parameter(at.batch, kv, at.key));
  return learned;
}

namespace detail {

/// Zero gradients of the slots that have one for each row, for a row that is not computed.
template <class A>
void clear_row_gradients(const SlotGradients<A>& dslots, int b, int h, int t) {
  for_each_slot_with_gradient(
      [&]<class Slot>(Slot, const auto& gradient) {
        if constexpr (Slot::info.is_per_row())
          if (gradient) gradient(b, h, t) = 0;
      },
      dslots);
}

/// Throws the ShapeError of an argument; got is empty where it is missing.
[[noreturn]] void throw_shape_error(const char* op, const std::string& name, std::span<const int64_t> got,
                                    std::span<const int64_t> expected);

template <class T, int Rank>
void check_shape(const View<T, Rank>& view, const int64_t (&expected)[Rank], const char* op,
                 const std::string& name) {
  if (!view && !std::equal(expected, expected + Rank, view.size)) throw_shape_error(op, name, {}, expected);
  if (!std::equal(expected, expected + Rank, view.size)) throw_shape_error(op, name, view.size, expected);
}

template <class T>
void check_rows(const View<T, 4>& view, const int64_t (&expected)[4], const char* op, const char* name) {
  check_shape(view, expected, op, name);
  HEADWAY_CHECK(view.stride[3] == 1 || view.size[3] == 1, ShapeError,
                std::string(op) + ": " + name + " must be contiguous along the head's width");
}

/// Of a slot or its gradient.
template <class V, class Slot, class Args, class T, int Rank>
void check_slot(const Args& args, const View<T, Rank>& view, const std::string& name) {
  const char* op = Args::name;
  const auto &q = args.q.size, &k = args.k.size;
  const int64_t num_parameters = V::num_head_parameters(args.params);
  int64_t expected[Rank];
  for (int dim = 0; dim < Rank; ++dim) {
    const int64_t sizes[] = {q[0],           q[2],          k[2], q[1], k[1],  // in the order of Extent
                             num_parameters, view.size[dim]};
    expected[dim] = sizes[static_cast<size_t>(Slot::info.shape[dim])];
  }
  check_shape(view, expected, op, name);
}

/// Shapes of what both directions read.
template <class V, class Args>
void check_softmax_inputs(const Args& args) {
  const char* op = Args::name;
  const auto &q = args.q.size, &k = args.k.size;
  const int64_t B = q[0], T = q[1], H = q[2], Dh = q[3], Tk = k[1], K = k[2];
  check_rows(args.q, {B, T, H, Dh}, op, "q");
  check_rows(args.k, {B, Tk, K, Dh}, op, "k");
  check_rows(args.v, {B, Tk, K, args.v.size[3]}, op, "v");
  HEADWAY_CHECK(K > 0 && H % K == 0, ShapeError,
                std::string(op) + ": " + std::to_string(H) + " query heads do not divide into groups of " +
                    std::to_string(K) + " key/value heads");
  HEADWAY_CHECK(args.query_offset >= 0, ShapeError,
                std::string(op) + ": query_offset = " + std::to_string(args.query_offset) + " is negative");
  check_shape(args.log_sum_exp, {B, H, T}, op, "log_sum_exp");
  for_each_slot(
      [&]<class Slot>(Slot, const auto& view) {
        if constexpr (has(V::slots, Slot::info.bit)) check_slot<V, Slot>(args, view, Slot::info.name);
      },
      args.slots);
}

}  // namespace detail

/// q [B,T,H,Dh], k [B,Tk,K,Dh], v [B,Tk,K,Dv] -> o [B,T,H,Dv], log_sum_exp [B,H,T] of the softmax's input, in
/// natural units. Strides are free except along Dh.
template <class V, class T>
struct SoftmaxForward {
  static_assert(
      IsSoftmaxVariant<V>,
      "a softmax variant derives from SoftmaxVariant, its begin and end return int, and its score "
      "returns its argument's type for double, float and Dual<double>; its Weight is OnlineSoftmax or "
      "has weight() and is_normalised");
  static_assert(
      kSlotsFitWeights<V>,
      "a variant whose Weight is not OnlineSoftmax has no log-sum-exp, so it cannot have the slot sink");
  static constexpr const char* name = "softmax_attention_forward";

  View<const T, 4> q, k, v;
  SlotViews<Acc<T>> slots = {};
  typename V::Params params = {};
  double scale = 1;
  int64_t query_offset = 0;
  View<T, 4> o;
  View<Acc<T>, 3> log_sum_exp;
  View<T, 4> y = {};  // Y, for backward; may be empty, and is never written unless kScalesRows<V>

  void check() const {
    detail::check_softmax_inputs<V>(*this);
    const int64_t shape[4] = {q.size[0], q.size[1], q.size[2], v.size[3]};
    detail::check_rows(o, shape, name, "o");
    if (y) detail::check_rows(y, shape, name, "y");
  }
};

/// Gradients of what SoftmaxForward read, overwritten. dq, dk and dv must be given; gradients of slots may be
/// left empty.
template <class V, class T>
struct SoftmaxBackward {
  static constexpr const char* name = "softmax_attention_backward";

  View<const T, 4> q, k, v;
  SlotViews<Acc<T>> slots = {};
  typename V::Params params = {};
  double scale = 1;
  int64_t query_offset = 0;
  View<const T, 4> y;  // forward's y; its o where !kKeepsY<V>
  View<const Acc<T>, 3> log_sum_exp;
  View<const T, 4> dout;  // [B,T,H,Dv]
  View<T, 4> dq, dk, dv;
  SlotGradients<Acc<T>> dslots = {};

  void check() const {
    detail::check_softmax_inputs<V>(*this);
    const int64_t B = q.size[0], T_ = q.size[1], H = q.size[2], Dh = q.size[3], Tk = k.size[1], K = k.size[2],
                  Dv = v.size[3];
    detail::check_rows(y, {B, T_, H, Dv}, name, "y");
    detail::check_rows(dout, {B, T_, H, Dv}, name, "dout");
    detail::check_rows(dq, {B, T_, H, Dh}, name, "dq");
    detail::check_rows(dk, {B, Tk, K, Dh}, name, "dk");
    detail::check_rows(dv, {B, Tk, K, Dv}, name, "dv");
    for_each_slot_with_gradient(
        [&]<class Slot>(Slot, const auto& gradient) {
          if (gradient) detail::check_slot<V, Slot>(*this, gradient, std::string("d") + Slot::info.name);
        },
        dslots);
  }
};

}  // namespace headway
