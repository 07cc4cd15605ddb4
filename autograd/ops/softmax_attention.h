// Softmax attention as a differentiable operation, for any variant (equations in
// kernels/attention/softmax.h).
//
//   Variable o = softmax_attention<attention::SlidingWindow>(ctx, {.q = q, .k = k, .v = v},
//                                                            {.params = {.window = 256}});
//
// Needs only the variant's small policy header: the kernels are entered through their tables.
#pragma once

#include <cmath>
#include <optional>
#include <string>

#include "autograd/apply.h"
#include "autograd/ops/attention_figures.h"
#include "kernels/attention/softmax_by_rows.h"
#include "kernels/attention/weight_dropout.h"

namespace headway {

template <class V>
struct SoftmaxAttention {
  static constexpr const char* name = "softmax_attention";
  struct Config {
    typename V::Params params = {};
    std::optional<double> scale = {};  // 1 / sqrt(Dh) where absent
    int64_t query_offset = 0;          // position of the first query among the keys
    double dropout = 0;                // share of the weights that training drops (weight_dropout.h)
  };
  template <class T>
  using Inputs = SoftmaxRecord<T>;
  struct Saved {
    Inputs<Tensor> inputs;
    Tensor y;  // the output itself where backward needs no other
    Tensor log_sum_exp;
    Config config;
    auto tensors() const { return std::tuple_cat(inputs.all(), std::tie(y, log_sum_exp)); }
  };

  /// q [B,T,H,Dh], k [B,Tk,K,Dh], v [B,Tk,K,Dv] and the variant's slots -> [B,T,H,Dv]
  static Tensor forward(Context& ctx, Saved* saved, const Config& config, const Inputs<Tensor>& inputs) {
    const Tensor& q = inputs.q;
    const Shape shape{q.size(0), q.size(1), q.size(2), inputs.v.size(3)};
    const Tensor o = Tensor::empty(shape, q.dtype(), q.device());
    const Tensor log_sum_exp =
        Tensor::empty({q.size(0), q.size(2), q.size(1)}, accumulator_of(q.dtype()), q.device());
    Tensor y;
    if (kKeepsY<V> && saved) y = Tensor::empty(shape, q.dtype(), q.device());
    dispatch<double, float, bf16>(q.dtype(), name, [&]<class T>() {
      auto args = with_inputs<SoftmaxForward<V, T>, T>(inputs, config);
      args.o = o.view<T, 4>("o");
      args.log_sum_exp = log_sum_exp.view<Acc<T>, 3>("log_sum_exp");
      args.y = y.optional_view<T, 4>("y");
      if (ctx.row_invariant)
        launch(SoftmaxByRows<V, T>{args}, ctx.stream);
      else
        launch(args, ctx.stream);
      if (ctx.metrics) report_attention<V>(ctx, config.params, args.scale, inputs, log_sum_exp);
    });
    if (saved) *saved = {inputs, kKeepsY<V> ? y : o, log_sum_exp, config};
    return o;
  }

  static Inputs<Tensor> backward(Context& ctx, const Saved& saved, const Tensor& dout,
                                 const Inputs<GradTarget>& needs) {
    const auto like = [](const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); };
    const Inputs<Tensor>& inputs = saved.inputs;
    Inputs<Tensor> gradients;
    const Tensor dq = like(inputs.q), dk = like(inputs.k), dv = like(inputs.v);
    dispatch<double, float, bf16>(inputs.q.dtype(), name, [&]<class T>() {
      auto args = with_inputs<SoftmaxBackward<V, T>, T>(inputs, saved.config);
      args.y = saved.y.template view<const T, 4>("y");
      args.log_sum_exp = saved.log_sum_exp.template view<const Acc<T>, 3>("log_sum_exp");
      args.dout = dout.view<const T, 4>("dout");
      args.dq = dq.view<T, 4>("dq");
      args.dk = dk.view<T, 4>("dk");
      args.dv = dv.view<T, 4>("dv");
      for_each_slot_with_gradient(
          [&]<class Slot>(Slot, auto& view, const GradTarget& need, const Tensor& input, Tensor& gradient) {
            if (!need) return;
            gradient = like(input);
            view = gradient.view<Acc<T>, Slot::info.rank>(Slot::info.name);
          },
          args.dslots, needs, inputs, gradients);
      launch(args, ctx.stream);
    });
    if (needs.q) gradients.q = dq;
    if (needs.k) gradients.k = dk;
    if (needs.v) gradients.v = dv;
    return gradients;
  }

 private:
  /// The part of the arguments that both directions share.
  template <class Args, class T>
  static Args with_inputs(const Inputs<Tensor>& inputs, const Config& config) {
    Args args;
    args.q = inputs.q.template view<const T, 4>("q");
    args.k = inputs.k.template view<const T, 4>("k");
    args.v = inputs.v.template view<const T, 4>("v");
    for_each_slot(
        []<class Slot, class Number, int rank>(Slot, View<Number, rank>& view, const Tensor& input) {
          view = input.optional_view<Number, rank>(Slot::info.name);
        },
        args.slots, inputs);
    args.params = config.params;
    args.scale = config.scale.value_or(1 / std::sqrt(static_cast<double>(inputs.q.size(3))));
    args.query_offset = config.query_offset;
    return args;
  }
};

/// q, k, v and the slots that the variant declares; shapes and dtypes as in kernels/attention/softmax.h.
using SoftmaxInputs = SoftmaxRecord<Variable, Tensor>;

/// [B,T,H,Dv]. ShapeError when a slot the variant declares is missing, or one it does not declare is given.
template <class V>
Variable softmax_attention(Context& ctx, const SoftmaxInputs& in,
                           const typename SoftmaxAttention<V>::Config& config) {
  for_each_slot(
      []<class Slot>(Slot, const auto& input) {
        const bool given = input.defined();
        HEADWAY_CHECK(given == has(V::slots, Slot::info.bit), ShapeError,
                      std::string(SoftmaxAttention<V>::name) + ": " + Slot::info.name +
                          (given ? " is given, but this variant has no such slot" : " is missing"));
      },
      in);
  const auto attend = [&]<class W>(const typename SoftmaxAttention<W>::Config& of_variant) {
    return apply<SoftmaxAttention<W>>(ctx, of_variant, in);
  };
  if (!ctx.training || config.dropout == 0) return attend.template operator()<V>(config);
  const auto dropout = WeightDropout::next(ctx.rng, config.dropout, in.q.size(2), in.q.size(1), in.k.size(1));
  return attend.template operator()<WithDropout<V>>(
      {.params = {config.params, dropout}, .scale = config.scale, .query_offset = config.query_offset});
}

}  // namespace headway
