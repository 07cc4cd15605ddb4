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
  struct Saved {
    Tensor q, k, v, row_scale, row_bias, key_bias, sink, key_end, row_index;
    Tensor y;  // the output itself where the variant does not scale rows
    Tensor log_sum_exp;
    Config config;
    auto tensors() const {
      return std::tie(q, k, v, row_scale, row_bias, key_bias, sink, key_end, row_index, y, log_sum_exp);
    }
  };

  /// q [B,T,H,Dh], k v [B,Tk,K,Dh] and the variant's slots -> [B,T,H,Dh]
  static Tensor forward(Context& ctx, Saved* saved, const Config& config, const Tensor& q, const Tensor& k,
                        const Tensor& v, const Tensor& row_scale, const Tensor& row_bias,
                        const Tensor& key_bias, const Tensor& sink, const Tensor& key_end,
                        const Tensor& row_index) {
    const Tensor o = Tensor::empty(q.shape(), q.dtype(), q.device());
    const Tensor log_sum_exp =
        Tensor::empty({q.size(0), q.size(2), q.size(1)}, accumulator_of(q.dtype()), q.device());
    Tensor y;
    if (kScalesRows<V> && saved) y = Tensor::empty(q.shape(), q.dtype(), q.device());
    const Saved inputs{q,           k,     v,       row_scale, row_bias,
                       key_bias,    sink,  key_end, row_index, kScalesRows<V> ? y : o,
                       log_sum_exp, config};
    dispatch<double, float, bf16>(q.dtype(), name, [&]<class T>() {
      auto args = with_inputs<SoftmaxForward<V, T>, T>(inputs);
      args.o = o.view<T, 4>("o");
      args.log_sum_exp = log_sum_exp.view<Acc<T>, 3>("log_sum_exp");
      args.y = y.optional_view<T, 4>("y");
      if (ctx.row_invariant)
        launch(SoftmaxByRows<V, T>{args}, ctx.stream);
      else
        launch(args, ctx.stream);
      if (ctx.metrics)
        report_attention<V>(ctx, config.params, args.scale, q, k, log_sum_exp, key_bias, key_end);
    });
    if (saved) *saved = inputs;
    return o;
  }

  static Grads<9> backward(Context& ctx, const Saved& saved, const Tensor& dout, const Needs<9>& needs) {
    const auto like = [](const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); };
    const auto like_if = [&](size_t input, const Tensor& x) { return needs[input] ? like(x) : Tensor(); };
    const Tensor dq = like(saved.q), dk = like(saved.k), dv = like(saved.v);
    const Tensor drow_scale = like_if(3, saved.row_scale), drow_bias = like_if(4, saved.row_bias);
    const Tensor dkey_bias = like_if(5, saved.key_bias), dsink = like_if(6, saved.sink);
    dispatch<double, float, bf16>(saved.q.dtype(), name, [&]<class T>() {
      auto args = with_inputs<SoftmaxBackward<V, T>, T>(saved);
      args.y = saved.y.template view<const T, 4>("y");
      args.log_sum_exp = saved.log_sum_exp.template view<const Acc<T>, 3>("log_sum_exp");
      args.dout = dout.view<const T, 4>("dout");
      args.dq = dq.view<T, 4>("dq");
      args.dk = dk.view<T, 4>("dk");
      args.dv = dv.view<T, 4>("dv");
      args.drow_scale = drow_scale.optional_view<Acc<T>, 3>("drow_scale");
      args.drow_bias = drow_bias.optional_view<Acc<T>, 3>("drow_bias");
      args.dkey_bias = dkey_bias.optional_view<Acc<T>, 3>("dkey_bias");
      args.dsink = dsink.optional_view<Acc<T>, 1>("dsink");
      launch(args, ctx.stream);
    });
    return {needs[0] ? dq : Tensor(),
            needs[1] ? dk : Tensor(),
            needs[2] ? dv : Tensor(),
            drow_scale,
            drow_bias,
            dkey_bias,
            dsink,
            Tensor(),
            Tensor()};
  }

 private:
  /// The part of the arguments that both directions share.
  template <class Args, class T>
  static Args with_inputs(const Saved& inputs) {
    Args args;
    args.q = inputs.q.template view<const T, 4>("q");
    args.k = inputs.k.template view<const T, 4>("k");
    args.v = inputs.v.template view<const T, 4>("v");
    args.slots = {.row_scale = inputs.row_scale.template optional_view<const Acc<T>, 3>("row_scale"),
                  .row_bias = inputs.row_bias.template optional_view<const Acc<T>, 3>("row_bias"),
                  .key_bias = inputs.key_bias.template optional_view<const Acc<T>, 3>("key_bias"),
                  .key_end = inputs.key_end.template optional_view<const int32_t, 3>("key_end"),
                  .row_index = inputs.row_index.template optional_view<const int32_t, 3>("row_index"),
                  .sink = inputs.sink.template optional_view<const Acc<T>, 1>("sink")};
    args.params = inputs.config.params;
    args.scale = inputs.config.scale.value_or(1 / std::sqrt(static_cast<double>(inputs.q.size(3))));
    args.query_offset = inputs.config.query_offset;
    return args;
  }
};

/// q, k, v and the slots that the variant declares; shapes and dtypes as in kernels/attention/softmax.h.
struct SoftmaxInputs {
  Variable q, k, v;
  Variable row_scale = {}, row_bias = {}, key_bias = {}, sink = {};
  Tensor key_end = {}, row_index = {};
};

/// [B,T,H,Dh]. ShapeError when a slot the variant declares is missing, or one it does not declare is given.
template <class V>
Variable softmax_attention(Context& ctx, const SoftmaxInputs& in,
                           const typename SoftmaxAttention<V>::Config& config) {
  const auto check = [](Slots slot, bool given, const char* slot_name) {
    HEADWAY_CHECK(given == has(V::slots, slot), ShapeError,
                  std::string(SoftmaxAttention<V>::name) + ": " + slot_name +
                      (given ? " is given, but this variant has no such slot" : " is missing"));
  };
  check(Slots::row_scale, in.row_scale.defined(), "row_scale");
  check(Slots::row_bias, in.row_bias.defined(), "row_bias");
  check(Slots::key_bias, in.key_bias.defined(), "key_bias");
  check(Slots::sink, in.sink.defined(), "sink");
  check(Slots::key_end, in.key_end.defined(), "key_end");
  check(Slots::row_index, in.row_index.defined(), "row_index");
  const auto attend = [&]<class W>(const typename SoftmaxAttention<W>::Config& of_variant) {
    return apply<SoftmaxAttention<W>>(ctx, of_variant, in.q, in.k, in.v, in.row_scale, in.row_bias,
                                      in.key_bias, in.sink, in.key_end, in.row_index);
  };
  if (!ctx.training || config.dropout == 0) return attend.template operator()<V>(config);
  const auto dropout = WeightDropout::next(ctx.rng, config.dropout, in.q.size(2), in.q.size(1), in.k.size(1));
  return attend.template operator()<WithDropout<V>>(
      {.params = {config.params, dropout}, .scale = config.scale, .query_offset = config.query_offset});
}

}  // namespace headway
