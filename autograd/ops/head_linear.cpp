#include "autograd/ops/head_linear.h"

#include "autograd/ops/flat.h"
#include "autograd/ops/linear.h"
#include "kernels/ops/matmul.h"

namespace headway {
namespace {

/// Rows [B*T,width] of one head of [B,T,H,width].
Tensor head_rows(const Tensor& x, int64_t h) {
  const int64_t H = x.size(2), width = x.size(3);
  return x.reshape({-1, H * width}).slice(1, h * width, (h + 1) * width);
}
/// Matrix h of [H,out,in].
Tensor matrix(const Tensor& weight, int64_t h) {
  return weight.slice(0, h, h + 1).reshape({weight.size(1), weight.size(2)});
}

}  // namespace

Tensor HeadLinear::forward(Context& ctx, Saved* saved, const Config&, const Tensor& x, const Tensor& weight,
                           const Tensor& bias) {
  HEADWAY_CHECK(
      x.size(2) == weight.size(0) && x.size(3) == weight.size(2), ShapeError,
      "head_linear: rows " + x.shape().to_string() + " do not fit matrices " + weight.shape().to_string());
  const Tensor y = Tensor::empty(with_last(x.shape(), weight.size(1)), x.dtype(), ctx.device());
  for (int64_t h = 0; h < x.size(2); ++h)
    multiply({.a = head_rows(x, h),
              .b = matrix(weight, h).transpose(0, 1),
              .c = head_rows(y, h),
              .bias = bias ? bias.slice(0, h, h + 1).reshape({-1}) : Tensor()},
             ctx.stream);
  if (saved) *saved = {x, weight, bias.defined()};
  return y;
}

Grads<3> HeadLinear::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<3>& needs) {
  const int64_t H = dy.size(2);
  const DType dtype = accumulator_of(dy.dtype());
  Grads<3> gradients;
  if (needs[0]) {
    gradients[0] = empty_like(saved.x);
    for (int64_t h = 0; h < H; ++h)
      multiply({.a = head_rows(dy, h), .b = matrix(saved.weight, h), .c = head_rows(gradients[0], h)},
               ctx.stream);
  }
  if (needs[1]) {
    gradients[1] = needs[1].tensor(saved.weight.shape(), dtype, ctx.device());
    for (int64_t h = 0; h < H; ++h)
      multiply({.a = head_rows(dy, h).transpose(0, 1),
                .b = head_rows(saved.x, h),
                .c = matrix(gradients[1], h),
                .accumulate = needs[1].accumulates(dtype)},
               ctx.stream);
  }
  if (saved.has_bias && needs[2]) {
    gradients[2] = needs[2].tensor({H, dy.size(3)}, dtype, ctx.device());
    dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
      launch(ColumnSum<T>{.x = dy.reshape({-1, H * dy.size(3)}).view<const T, 2>("dy"),
                          .sum = flat<Acc<T>>(gradients[2], "dbias"),
                          .accumulate = needs[2].accumulates(dtype)},
             ctx.stream);
    });
  }
  return gradients;
}

}  // namespace headway
