#include "autograd/ops/norm.h"

#include "autograd/ops/linear.h"

namespace headway {

Tensor Norm::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x, const Tensor& weight,
                     const Tensor& bias) {
  const Tensor rows = rows_of(x), y = Tensor::empty(x.shape(), x.dtype(), ctx.device());
  const DType statistic = accumulator_of(x.dtype());
  Tensor mean;
  if (config.kind == NormKind::layer) mean = Tensor::empty({rows.size(0)}, statistic, ctx.device());
  const Tensor inverse = Tensor::empty({rows.size(0)}, statistic, ctx.device());
  dispatch<double, float, bf16>(x.dtype(), name, [&]<class T>() {
    launch(NormForward<T>{.kind = config.kind,
                          .eps = config.eps,
                          .x = rows.view<const T, 2>("x"),
                          .weight = weight.view<const Acc<T>, 1>("weight"),
                          .bias = bias.optional_view<const Acc<T>, 1>("bias"),
                          .y = rows_of(y).view<T, 2>("y"),
                          .mean = mean.optional_view<Acc<T>, 1>("mean"),
                          .inverse = inverse.view<Acc<T>, 1>("inverse")},
           ctx.stream);
  });
  if (saved) *saved = {x, weight, mean, inverse, config, bias.defined()};
  return y;
}

Grads<3> Norm::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<3>& needs) {
  const Tensor x = rows_of(saved.x);
  const DType dtype = accumulator_of(dy.dtype());
  Grads<3> gradients;
  gradients[0] = needs[0].tensor(saved.x.shape(), dy.dtype(), ctx.device());
  gradients[1] = needs[1].tensor(saved.weight.shape(), dtype, ctx.device());
  if (saved.has_bias) gradients[2] = needs[2].tensor(saved.weight.shape(), dtype, ctx.device());
  dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
    launch(NormBackward<T>{.kind = saved.config.kind,
                           .dy = rows_of(dy).view<const T, 2>("dy"),
                           .x = x.view<const T, 2>("x"),
                           .weight = saved.weight.view<const Acc<T>, 1>("weight"),
                           .mean = saved.mean.optional_view<const Acc<T>, 1>("mean"),
                           .inverse = saved.inverse.view<const Acc<T>, 1>("inverse"),
                           .dx = rows_of(gradients[0]).view<T, 2>("dx"),
                           .dweight = gradients[1].view<Acc<T>, 1>("dweight"),
                           .dbias = gradients[2].optional_view<Acc<T>, 1>("dbias"),
                           .accumulate_x = needs[0].accumulates(dy.dtype()),
                           .accumulate_weight = needs[1].accumulates(dtype),
                           .accumulate_bias = needs[2].accumulates(dtype)},
           ctx.stream);
  });
  return gradients;
}

}  // namespace headway
