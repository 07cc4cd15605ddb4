#include "autograd/ops/gelu_mlp.h"

#include "autograd/ops/flat.h"
#include "autograd/ops/linear.h"
#include "kernels/ops/activation.h"
#include "kernels/ops/matmul.h"

namespace headway {
namespace {

template <class T>
bool has_fused(const Tensor& inner) {
  return has_kernel<MatmulGelu<T>>(inner.device().kind) && MatmulGelu<T>::fits(inner.size(-1));
}

template <class T>
Matmul<T> product_of(const Product& p) {
  return {.a = p.a.view<const T, 2>("a"),
          .b = p.b.view<const T, 2>("b"),
          .c = p.c.view<T, 2>("c"),
          .bias = p.bias.optional_view<const Acc<T>, 1>("bias"),
          .scale = {}};
}

void gelu(const Tensor& inner, const Tensor& hidden, Stream& stream) {
  dispatch<double, float, bf16>(inner.dtype(), GeluMlp::name, [&]<class T>() {
    launch(GeluForward<T>{.x = flat<const T>(inner, "inner"), .y = flat<T>(hidden, "hidden")}, stream);
  });
}

/// hidden = gelu(inner), inner = a b + bias.
void multiply_gelu(const Product& p, const Tensor& inner, const Tensor& hidden, Stream& stream) {
  dispatch<double, float, bf16>(inner.dtype(), GeluMlp::name, [&]<class T>() {
    if (has_fused<T>(inner)) {
      Product fused = p;
      fused.c = hidden;
      launch(MatmulGelu<T>{.product = product_of<T>(fused), .inner = inner.view<T, 2>("inner")}, stream);
      return;
    }
    multiply(p, stream);
    gelu(inner, hidden, stream);
  });
}

/// c = (a b) gelu'(inner)
void multiply_gelu_slope(const Product& p, const Tensor& inner, Stream& stream) {
  dispatch<double, float, bf16>(inner.dtype(), GeluMlp::name, [&]<class T>() {
    if (has_fused<T>(inner)) {
      launch(MatmulGelu<T>{.product = product_of<T>(p),
                           .inner = inner.view<T, 2>("inner"),
                           .direction = MatmulGelu<T>::Direction::backward},
             stream);
      return;
    }
    multiply(p, stream);
    launch(GeluBackward<T>{.dy = flat<const T>(p.c, "dhidden"),
                           .x = flat<const T>(inner, "inner"),
                           .dx = flat<T>(p.c, "dinner")},
           stream);
  });
}

}  // namespace

Tensor GeluMlp::forward(Context& ctx, Saved* saved, const Config&, const Tensor& x, const Tensor& up,
                        const Tensor& up_bias, const Tensor& down, const Tensor& down_bias) {
  const Tensor rows = rows_of(x);
  const auto empty = [&] { return Tensor::empty({rows.size(0), up.size(0)}, x.dtype(), ctx.device()); };
  const Tensor inner = empty(), hidden = empty();
  if (ctx.row_invariant) {
    project(ctx, rows, up, up_bias, inner);
    gelu(inner, hidden, ctx.stream);
  } else {
    multiply_gelu({.a = rows, .b = up.transpose(0, 1), .c = inner, .bias = up_bias}, inner, hidden,
                  ctx.stream);
  }
  const Tensor y = Tensor::empty(with_last(x.shape(), down.size(0)), x.dtype(), ctx.device());
  project(ctx, hidden, down, down_bias, rows_of(y));
  if (saved) *saved = {x, up, down, inner, hidden, up_bias.defined()};
  return y;
}

Grads<5> GeluMlp::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<5>& needs) {
  const Grads<3> down = Linear::backward(ctx, {saved.hidden, saved.down, saved.has_bias}, dy,
                                         {GradTarget(), needs[3], needs[4]});
  const Tensor dinner = Tensor::empty(saved.inner.shape(), dy.dtype(), ctx.device());
  multiply_gelu_slope({.a = rows_of(dy), .b = saved.down, .c = dinner}, saved.inner, ctx.stream);
  const Grads<3> up =
      Linear::backward(ctx, {saved.x, saved.up, saved.has_bias}, dinner, {needs[0], needs[1], needs[2]});
  return {up[0], up[1], up[2], down[1], down[2]};
}

}  // namespace headway
