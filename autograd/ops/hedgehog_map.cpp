#include "autograd/ops/hedgehog_map.h"

#include "autograd/ops/flat.h"
#include "autograd/ops/head_linear.h"
#include "autograd/ops/linear.h"
#include "kernels/ops/hedgehog_feature_map.h"

namespace headway {
namespace {

/// [B,T,H,width] as [B*T,H,width].
Tensor heads_of_rows(const Tensor& x) { return x.reshape({-1, x.size(-2), x.size(-1)}); }

bool has_feature_map_kernel(const Context& ctx, HedgehogFeatures features, const Tensor& x,
                            const Tensor& weight) {
  return x.dtype() == DType::bf16 && has_kernel<HedgehogFeatureMapForward<bf16>>(ctx.device().kind) &&
         takes_hedgehog_feature_map(features, x.size(-1), weight.size(1));
}

}  // namespace

Tensor HedgehogMap::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& u,
                            const Tensor& shift) {
  const Tensor y = Tensor::empty(with_last(u.shape(), 2 * u.size(-1)), u.dtype(), ctx.device());
  const Tensor rows = shift ? shift.reshape({-1}) : Tensor();
  dispatch<double, float, bf16>(u.dtype(), name, [&]<class T>() {
    launch(HedgehogMapForward<T>{.features = config.features,
                                 .u = rows_of(u).view<const T, 2>("u"),
                                 .shift = rows.optional_view<const Acc<T>, 1>("shift"),
                                 .y = rows_of(y).view<T, 2>("y")},
           ctx.stream);
  });
  if (saved) *saved = {y, config};
  return y;
}

Grads<2> HedgehogMap::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<2>&) {
  const Tensor& y = saved.y;
  const Tensor du = Tensor::empty(with_last(y.shape(), y.size(-1) / 2), y.dtype(), ctx.device());
  dispatch<double, float, bf16>(y.dtype(), name, [&]<class T>() {
    launch(HedgehogMapBackward<T>{.features = saved.config.features,
                                  .y = rows_of(y).view<const T, 2>("y"),
                                  .dy = rows_of(dy).view<const T, 2>("dy"),
                                  .du = rows_of(du).view<T, 2>("du")},
           ctx.stream);
  });
  return {du, Tensor()};
}

Tensor HedgehogFeatureMap::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x,
                                   const Tensor& weight, const Tensor& bias) {
  if (bias || !has_feature_map_kernel(ctx, config.features, x, weight)) {
    const Tensor u = HeadLinear::forward(ctx, nullptr, {}, x, weight, bias);
    const Tensor y = HedgehogMap::forward(ctx, nullptr, config, u, Tensor());
    if (saved) *saved = {x, weight, y, bias.defined(), config};
    return y;
  }
  const Tensor y = Tensor::empty(with_last(x.shape(), 2 * weight.size(1)), x.dtype(), ctx.device());
  launch(HedgehogFeatureMapForward<bf16>{.features = config.features,
                                         .x = heads_of_rows(x).view<const bf16, 3>("x"),
                                         .weight = weight.view<const bf16, 3>("weight"),
                                         .y = heads_of_rows(y).view<bf16, 3>("y")},
         ctx.stream);
  if (saved) *saved = {x, weight, Tensor(), false, config};
  return y;
}

Grads<3> HedgehogFeatureMap::backward(Context& ctx, const Saved& saved, const Tensor& dy,
                                      const Needs<3>& needs) {
  if (saved.y) {
    const Tensor du = HedgehogMap::backward(ctx, {saved.y, saved.config}, dy, {})[0];
    return HeadLinear::backward(ctx, {saved.x, saved.weight, saved.has_bias}, du, needs);
  }
  const DType dtype = accumulator_of(dy.dtype());
  const Tensor dx = empty_like(saved.x), dweight = needs[1].tensor(saved.weight.shape(), dtype, ctx.device());
  launch(HedgehogFeatureMapBackward<bf16>{.features = saved.config.features,
                                          .x = heads_of_rows(saved.x).view<const bf16, 3>("x"),
                                          .weight = saved.weight.view<const bf16, 3>("weight"),
                                          .dy = heads_of_rows(dy).view<const bf16, 3>("dy"),
                                          .dx = heads_of_rows(dx).view<bf16, 3>("dx"),
                                          .dweight = dweight.view<float, 3>("dweight"),
                                          .accumulate_weight = needs[1].accumulates(dtype)},
         ctx.stream);
  return {dx, dweight, Tensor()};
}

HedgehogShifts hedgehog_shifts(Context& ctx, const Tensor& query, const Tensor& key, const Tensor& before,
                               double eps) {
  const DType dtype = accumulator_of(key.dtype());
  const Shape tokens{key.size(0), key.size(1), key.size(2)};
  const auto empty = [&](const Shape& shape) { return Tensor::empty(shape, dtype, ctx.device()); };
  const HedgehogShifts shifts{empty(tokens), empty(tokens), empty(tokens), empty(tokens),
                              empty({key.size(0), key.size(2)})};
  // Without a shift a denominator is at least exp(-bound). `smallest` is far below that, and its inverse
  // times exp(bound) far from overflow.
  const bool wide = dtype == DType::f64;
  const double bound = wide ? 300 : 20, smallest = wide ? 1e-145 : 1e-20;
  dispatch<double, float, bf16>(key.dtype(), "hedgehog_shifts", [&]<class T>() {
    launch(HedgehogShift<T>{.query = query.view<const T, 4>("query"),
                            .key = key.view<const T, 4>("key"),
                            .before = before.optional_view<const Acc<T>, 2>("before"),
                            .bound = bound,
                            .eps = eps,
                            .smallest = smallest,
                            .query_shift = shifts.query.view<Acc<T>, 3>("query_shift"),
                            .key_shift = shifts.key.view<Acc<T>, 3>("key_shift"),
                            .log_decay = shifts.log_decay.view<Acc<T>, 3>("log_decay"),
                            .token_eps = shifts.token_eps.view<Acc<T>, 3>("token_eps"),
                            .after = shifts.after.view<Acc<T>, 2>("after")},
           ctx.stream);
  });
  return shifts;
}

}  // namespace headway
