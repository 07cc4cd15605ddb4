#include "autograd/ops/gate.h"

#include "autograd/ops/flat.h"
#include "kernels/ops/gate.h"

namespace headway {
namespace {

/// [...,H,D] -> [R,H,D]
Tensor rows_of_heads(const Tensor& x) { return x.reshape({-1, x.size(-2), x.size(-1)}); }

}  // namespace

Tensor Gate::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x, const Tensor& z) {
  if (saved) *saved = {x, z, config};
  const Tensor y = empty_like(x);
  dispatch<double, float, bf16>(x.dtype(), name, [&]<class T>() {
    launch(GateForward<T>{.x = rows_of_heads(x).view<const T, 3>("x"),
                          .z = rows_of_heads(z).view<const T, 3>("z"),
                          .activation = config.activation,
                          .adds = config.adds,
                          .y = rows_of_heads(y).view<T, 3>("y")},
           ctx.stream);
  });
  return y;
}

Grads<2> Gate::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<2>&) {
  const Tensor dx = empty_like(saved.x), dz = empty_like(saved.z);
  dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
    launch(GateBackward<T>{.dy = rows_of_heads(dy).view<const T, 3>("dy"),
                           .x = rows_of_heads(saved.x).view<const T, 3>("x"),
                           .z = rows_of_heads(saved.z).view<const T, 3>("z"),
                           .activation = saved.config.activation,
                           .adds = saved.config.adds,
                           .dx = rows_of_heads(dx).view<T, 3>("dx"),
                           .dz = rows_of_heads(dz).view<T, 3>("dz")},
           ctx.stream);
  });
  return {dx, dz};
}

Tensor Activate::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x) {
  if (saved) *saved = {x, config};
  const Tensor y = empty_like(x);
  dispatch<double, float, bf16>(x.dtype(), name, [&]<class T>() {
    launch(
        ActivateForward<T>{.x = flat<const T>(x, "x"), .y = flat<T>(y, "y"), .activation = config.activation},
        ctx.stream);
  });
  return y;
}

Grads<1> Activate::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<1>&) {
  const Tensor dx = empty_like(saved.x);
  dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
    launch(ActivateBackward<T>{.dy = flat<const T>(dy, "dy"),
                               .x = flat<const T>(saved.x, "x"),
                               .dx = flat<T>(dx, "dx"),
                               .activation = saved.config.activation},
           ctx.stream);
  });
  return {dx};
}

Tensor HeadMean::forward(Context& ctx, Saved* saved, const Config&, const Tensor& x) {
  if (saved) *saved = {x.shape()};
  Shape shape = x.shape();
  shape[-2] = 1;
  const Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  dispatch<double, float, bf16>(x.dtype(), name, [&]<class T>() {
    launch(HeadMeanForward<T>{.x = rows_of_heads(x).view<const T, 3>("x"),
                              .y = y.reshape({-1, x.size(-1)}).view<T, 2>("y")},
           ctx.stream);
  });
  return y;
}

Grads<1> HeadMean::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<1>&) {
  const Tensor dx = Tensor::empty(saved.shape, dy.dtype(), dy.device());
  dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
    launch(HeadMeanBackward<T>{.dy = dy.reshape({-1, dy.size(-1)}).view<const T, 2>("dy"),
                               .dx = rows_of_heads(dx).view<T, 3>("dx")},
           ctx.stream);
  });
  return {dx};
}

}  // namespace headway
