#include "autograd/ops/gated_norm.h"

#include "autograd/ops/flat.h"
#include "autograd/ops/linear.h"

namespace headway {
namespace {

/// Rows of the last dimension; undefined for an undefined tensor.
Tensor optional_rows(const Tensor& x) { return x ? rows_of(x) : Tensor(); }

}  // namespace

Tensor GatedNorm::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x,
                          const Tensor& weight, const Tensor& gate) {
  const Tensor y = empty_like(x);
  const Tensor inverse = Tensor::empty({rows_of(x).size(0)}, accumulator_of(x.dtype()), ctx.device());
  dispatch<double, float, bf16>(x.dtype(), name, [&]<class T>() {
    launch(GatedNormForward<T>{.activation = config.activation,
                               .eps = config.eps,
                               .x = rows_of(x).view<const T, 2>("x"),
                               .weight = weight.optional_view<const Acc<T>, 1>("weight"),
                               .gate = optional_rows(gate).optional_view<const T, 2>("gate"),
                               .y = rows_of(y).view<T, 2>("y"),
                               .inverse = inverse.view<Acc<T>, 1>("inverse")},
           ctx.stream);
  });
  if (saved) *saved = {x, weight, gate, inverse, config};
  return y;
}

Grads<3> GatedNorm::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<3>& needs) {
  const DType dtype = accumulator_of(dy.dtype());
  Grads<3> gradients{empty_like(saved.x), Tensor(), saved.gate ? empty_like(saved.gate) : Tensor()};
  if (saved.weight) gradients[1] = needs[1].tensor(saved.weight.shape(), dtype, ctx.device());
  dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
    launch(GatedNormBackward<T>{.activation = saved.config.activation,
                                .dy = rows_of(dy).view<const T, 2>("dy"),
                                .x = rows_of(saved.x).view<const T, 2>("x"),
                                .weight = saved.weight.optional_view<const Acc<T>, 1>("weight"),
                                .gate = optional_rows(saved.gate).optional_view<const T, 2>("gate"),
                                .inverse = saved.inverse.view<const Acc<T>, 1>("inverse"),
                                .dx = rows_of(gradients[0]).view<T, 2>("dx"),
                                .dgate = optional_rows(gradients[2]).optional_view<T, 2>("dgate"),
                                .dweight = gradients[1].optional_view<Acc<T>, 1>("dweight"),
                                .accumulate_weight = needs[1].accumulates(dtype)},
           ctx.stream);
  });
  return gradients;
}

}  // namespace headway
