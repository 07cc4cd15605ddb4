#include "autograd/ops/lrpe.h"

#include "autograd/ops/flat.h"
#include "autograd/ops/linear.h"
#include "kernels/ops/lrpe.h"

namespace headway {

Tensor Lrpe::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x, const Tensor& theta) {
  const Tensor y = Tensor::empty(with_last(x.shape(), 2 * x.size(-1)), x.dtype(), ctx.device());
  dispatch<double, float, bf16>(x.dtype(), name, [&]<class T>() {
    launch(LrpeForward<T>{.x = x.view<const T, 4>("x"),
                          .theta = theta.view<const Acc<T>, 2>("theta"),
                          .positions = config.positions,
                          .y = y.view<T, 4>("y")},
           ctx.stream);
  });
  if (saved) *saved = {x, theta, config};
  return y;
}

Grads<2> Lrpe::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<2>& needs) {
  const DType dtype = accumulator_of(saved.x.dtype());
  const Grads<2> gradients{empty_like(saved.x), needs[1].tensor(saved.theta.shape(), dtype, ctx.device())};
  dispatch<double, float, bf16>(saved.x.dtype(), name, [&]<class T>() {
    launch(LrpeBackward<T>{.dy = dy.view<const T, 4>("dy"),
                           .x = saved.x.view<const T, 4>("x"),
                           .theta = saved.theta.view<const Acc<T>, 2>("theta"),
                           .positions = saved.config.positions,
                           .dx = gradients[0].view<T, 4>("dx"),
                           .dtheta = flat<Acc<T>>(gradients[1], "dtheta"),
                           .accumulate_theta = needs[1].accumulates(dtype)},
           ctx.stream);
  });
  return gradients;
}

}  // namespace headway
