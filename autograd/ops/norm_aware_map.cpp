#include "autograd/ops/norm_aware_map.h"

#include "autograd/ops/flat.h"
#include "autograd/ops/linear.h"

namespace headway {

Tensor NormAwareMap::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x,
                             const Tensor& lambda) {
  const Tensor y = Tensor::empty(with_last(x.shape(), 2 * x.size(-1)), x.dtype(), ctx.device());
  dispatch<double, float, bf16>(x.dtype(), name, [&]<class T>() {
    launch(NormAwareMapForward<T>{.settings = config,
                                  .x = rows_of(x).view<const T, 2>("x"),
                                  .lambda = lambda.optional_view<const Acc<T>, 1>("lambda"),
                                  .y = rows_of(y).view<T, 2>("y")},
           ctx.stream);
  });
  if (saved) *saved = {x, lambda, config};
  return y;
}

Grads<2> NormAwareMap::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<2>& needs) {
  const DType dtype = accumulator_of(saved.x.dtype());
  Grads<2> gradients;
  gradients[0] = empty_like(saved.x);
  if (saved.lambda) gradients[1] = needs[1].tensor(saved.lambda.shape(), dtype, ctx.device());
  dispatch<double, float, bf16>(saved.x.dtype(), name, [&]<class T>() {
    launch(NormAwareMapBackward<T>{.settings = saved.config,
                                   .x = rows_of(saved.x).view<const T, 2>("x"),
                                   .lambda = saved.lambda.optional_view<const Acc<T>, 1>("lambda"),
                                   .dy = rows_of(dy).view<const T, 2>("dy"),
                                   .dx = rows_of(gradients[0]).view<T, 2>("dx"),
                                   .dlambda = gradients[1].optional_view<Acc<T>, 1>("dlambda"),
                                   .accumulate_lambda = needs[1].accumulates(dtype)},
           ctx.stream);
  });
  return gradients;
}

}  // namespace headway
