#include "autograd/ops/norm.h"

#include "autograd/ops/linear.h"

namespace headway {
namespace {

/// Normalises x, or sum = x + update, which must be there then.
Tensor forward_of(Context& ctx, Norm::Saved* saved, const Norm::Config& config, const Tensor& x,
                  const Tensor& update, const Tensor& sum, const Tensor& weight, const Tensor& bias) {
  const Tensor rows = rows_of(x), y = Tensor::empty(x.shape(), x.dtype(), ctx.device());
  const DType statistic = accumulator_of(x.dtype());
  Tensor mean;
  if (config.kind == NormKind::layer) mean = Tensor::empty({rows.size(0)}, statistic, ctx.device());
  const Tensor inverse = Tensor::empty({rows.size(0)}, statistic, ctx.device());
  const auto optional_rows = [](const Tensor& t) { return t ? rows_of(t) : t; };
  dispatch<double, float, bf16>(x.dtype(), Norm::name, [&]<class T>() {
    launch(NormForward<T>{.kind = config.kind,
                          .eps = config.eps,
                          .x = rows.view<const T, 2>("x"),
                          .weight = weight.view<const Acc<T>, 1>("weight"),
                          .bias = bias.optional_view<const Acc<T>, 1>("bias"),
                          .update = optional_rows(update).optional_view<const T, 2>("update"),
                          .sum = optional_rows(sum).optional_view<T, 2>("sum"),
                          .y = rows_of(y).view<T, 2>("y"),
                          .mean = mean.optional_view<Acc<T>, 1>("mean"),
                          .inverse = inverse.view<Acc<T>, 1>("inverse")},
           ctx.stream);
  });
  if (saved) *saved = {sum ? sum : x, weight, mean, inverse, config, bias.defined()};
  return y;
}

/// dx = added (where defined) + the gradient of what was normalised; returns those of weight and bias.
Grads<2> backward_of(Context& ctx, const Norm::Saved& saved, const Tensor& dy, const Tensor& added,
                     const Tensor& dx, const GradTarget& weight_target, const GradTarget& bias_target) {
  const DType dtype = accumulator_of(dy.dtype());
  const Tensor dweight = weight_target.tensor(saved.weight.shape(), dtype, ctx.device());
  const Tensor dbias =
      saved.has_bias ? bias_target.tensor(saved.weight.shape(), dtype, ctx.device()) : Tensor();
  const auto optional_rows = [](const Tensor& t) { return t ? rows_of(t) : t; };
  dispatch<double, float, bf16>(dy.dtype(), Norm::name, [&]<class T>() {
    launch(NormBackward<T>{.kind = saved.config.kind,
                           .dy = rows_of(dy).view<const T, 2>("dy"),
                           .x = rows_of(saved.x).view<const T, 2>("x"),
                           .weight = saved.weight.view<const Acc<T>, 1>("weight"),
                           .mean = saved.mean.optional_view<const Acc<T>, 1>("mean"),
                           .inverse = saved.inverse.view<const Acc<T>, 1>("inverse"),
                           .added = optional_rows(added).optional_view<const T, 2>("added"),
                           .dx = rows_of(dx).view<T, 2>("dx"),
                           .dweight = dweight.view<Acc<T>, 1>("dweight"),
                           .dbias = dbias.optional_view<Acc<T>, 1>("dbias"),
                           .accumulate_weight = weight_target.accumulates(dtype),
                           .accumulate_bias = bias_target.accumulates(dtype)},
           ctx.stream);
  });
  return {dweight, dbias};
}

}  // namespace

Tensor Norm::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x, const Tensor& weight,
                     const Tensor& bias) {
  return forward_of(ctx, saved, config, x, Tensor(), Tensor(), weight, bias);
}

Grads<3> Norm::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<3>& needs) {
  const Tensor dx = needs[0].tensor(saved.x.shape(), dy.dtype(), ctx.device());
  const Tensor added = needs[0].accumulates(dy.dtype()) ? dx : Tensor();
  const auto [dweight, dbias] = backward_of(ctx, saved, dy, added, dx, needs[1], needs[2]);
  return {dx, dweight, dbias};
}

std::array<Tensor, 2> AddNorm::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x,
                                       const Tensor& update, const Tensor& weight, const Tensor& bias) {
  const Tensor sum = Tensor::empty(x.shape(), x.dtype(), ctx.device());
  return {sum, forward_of(ctx, saved, config, x, update, sum, weight, bias)};
}

Grads<4> AddNorm::backward(Context& ctx, const Saved& saved, const Grads<2>& dy, const Needs<4>& needs) {
  const auto& [dsum, dnormed] = dy;
  if (!dnormed) return {dsum, dsum, Tensor(), Tensor()};
  const Tensor dx = Tensor::empty(saved.x.shape(), dnormed.dtype(), ctx.device());
  const auto [dweight, dbias] = backward_of(ctx, saved, dnormed, dsum, dx, needs[2], needs[3]);
  return {dx, dx, dweight, dbias};
}

}  // namespace headway
