#include "autograd/ops/activation.h"

#include "autograd/ops/flat.h"
#include "kernels/ops/activation.h"

namespace headway {

Tensor Silu::forward(Context& ctx, Saved* saved, const Config&, const Tensor& x) {
  if (saved) *saved = {x};
  const Tensor y = empty_like(x);
  dispatch<double, float, bf16>(x.dtype(), name, [&]<class T>() {
    launch(SiluForward<T>{.x = flat<const T>(x, "x"), .y = flat<T>(y, "y")}, ctx.stream);
  });
  return y;
}

Grads<1> Silu::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<1>&) {
  const Tensor dx = empty_like(saved.x);
  dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
    launch(
        SiluBackward<T>{
            .dy = flat<const T>(dy, "dy"), .x = flat<const T>(saved.x, "x"), .dx = flat<T>(dx, "dx")},
        ctx.stream);
  });
  return {dx};
}

Tensor SwiGlu::forward(Context& ctx, Saved* saved, const Config&, const Tensor& gate, const Tensor& up) {
  if (saved) *saved = {gate, up};
  const Tensor y = empty_like(gate);
  dispatch<double, float, bf16>(gate.dtype(), name, [&]<class T>() {
    launch(
        SwiGluForward<T>{
            .gate = flat<const T>(gate, "gate"), .up = flat<const T>(up, "up"), .y = flat<T>(y, "y")},
        ctx.stream);
  });
  return y;
}

Grads<2> SwiGlu::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<2>&) {
  const Tensor dgate = empty_like(saved.gate), dup = empty_like(saved.up);
  dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
    launch(SwiGluBackward<T>{.dy = flat<const T>(dy, "dy"),
                             .gate = flat<const T>(saved.gate, "gate"),
                             .up = flat<const T>(saved.up, "up"),
                             .dgate = flat<T>(dgate, "dgate"),
                             .dup = flat<T>(dup, "dup")},
           ctx.stream);
  });
  return {dgate, dup};
}

}  // namespace headway
