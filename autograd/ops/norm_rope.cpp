#include "autograd/ops/norm_rope.h"

#include "autograd/ops/flat.h"
#include "kernels/ops/norm_rope.h"

namespace headway {

Tensor NormRope::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x,
                         const Tensor& weight, const Tensor& table) {
  const Tensor y = empty_like(x);
  const Tensor inverse =
      Tensor::empty({x.size(0) * x.size(1) * x.size(2)}, accumulator_of(x.dtype()), ctx.device());
  dispatch<double, float, bf16>(x.dtype(), name, [&]<class T>() {
    launch(NormRopeForward<T>{.eps = config.eps,
                              .x = x.view<const T, 4>("x"),
                              .weight = weight.view<const Acc<T>, 1>("weight"),
                              .table = table.optional_view<const Acc<T>, 3>("table"),
                              .y = y.view<T, 4>("y"),
                              .inverse = inverse.view<Acc<T>, 1>("inverse")},
           ctx.stream);
  });
  if (saved) *saved = {x, weight, table, inverse};
  return y;
}

Grads<3> NormRope::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<3>& needs) {
  const DType dtype = accumulator_of(dy.dtype());
  const Tensor dx = empty_like(saved.x);
  const Tensor dweight = needs[1].tensor(saved.weight.shape(), dtype, ctx.device());
  dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
    launch(NormRopeBackward<T>{.dy = dy.view<const T, 4>("dy"),
                               .x = saved.x.view<const T, 4>("x"),
                               .weight = saved.weight.view<const Acc<T>, 1>("weight"),
                               .table = saved.table.optional_view<const Acc<T>, 3>("table"),
                               .inverse = saved.inverse.view<const Acc<T>, 1>("inverse"),
                               .dx = dx.view<T, 4>("dx"),
                               .dweight = dweight.view<Acc<T>, 1>("dweight"),
                               .accumulate_weight = needs[1].accumulates(dtype)},
           ctx.stream);
  });
  return {dx, dweight, Tensor()};
}

}  // namespace headway
