#include "autograd/ops/head_linear.h"

#include "autograd/ops/flat.h"
#include "autograd/ops/linear.h"
#include "kernels/ops/matmul.h"

namespace headway {
namespace {

/// Rows [B*T,width] of every head of [B,T,H,width]: [H,B*T,width].
Tensor by_head(const Tensor& x) { return x.reshape({-1, x.size(2), x.size(3)}).transpose(0, 1); }

}  // namespace

Tensor HeadLinear::forward(Context& ctx, Saved* saved, const Config&, const Tensor& x, const Tensor& weight,
                           const Tensor& bias) {
  HEADWAY_CHECK(
      x.size(2) == weight.size(0) && x.size(3) == weight.size(2), ShapeError,
      "head_linear: rows " + x.shape().to_string() + " do not fit matrices " + weight.shape().to_string());
  const Tensor y = Tensor::empty(with_last(x.shape(), weight.size(1)), x.dtype(), ctx.device());
  multiply_batch({.a = by_head(x), .b = weight.transpose(1, 2), .c = by_head(y), .bias = bias}, ctx.stream);
  if (saved) *saved = {x, weight, bias.defined()};
  return y;
}

Grads<3> HeadLinear::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<3>& needs) {
  const int64_t H = dy.size(2);
  const DType dtype = accumulator_of(dy.dtype());
  Grads<3> gradients;
  if (needs[0]) {
    gradients[0] = empty_like(saved.x);
    multiply_batch({.a = by_head(dy), .b = saved.weight, .c = by_head(gradients[0])}, ctx.stream);
  }
  if (needs[1]) {
    gradients[1] = needs[1].tensor(saved.weight.shape(), dtype, ctx.device());
    multiply_batch({.a = by_head(dy).transpose(1, 2),
                    .b = by_head(saved.x),
                    .c = gradients[1],
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
