#include "autograd/ops/linear.h"

#include "kernels/ops/linear_by_rows.h"
#include "kernels/ops/matmul.h"

namespace headway {
namespace {

template <class T, class C>
void launch_matmul(const Product& p, Stream& stream) {
  launch(Matmul<T, C>{.a = p.a.view<const T, 2>("a"),
                      .b = p.b.view<const T, 2>("b"),
                      .c = p.c.view<C, 2>("c"),
                      .bias = p.bias.optional_view<const Acc<T>, 1>("bias"),
                      .scale = p.scale.optional_view<const Acc<T>, 1>("scale"),
                      .accumulate = p.accumulate},
         stream);
}

/// Of the first index.
template <class T, int Rank>
View<T, Rank - 1> first_of(const View<T, Rank>& x) {
  View<T, Rank - 1> first;
  first.data = x.data;
  for (int i = 1; i < Rank; ++i) first.size[i - 1] = x.size[i], first.stride[i - 1] = x.stride[i];
  return first;
}

template <class T, class C>
void launch_batch(const Product& p, Stream& stream) {
  const auto a = p.a.view<const T, 3>("a"), b = p.b.view<const T, 3>("b");
  const auto c = p.c.view<C, 3>("c");
  const auto bias = p.bias.optional_view<const Acc<T>, 2>("bias");
  HEADWAY_CHECK(
      a.size[0] == c.size[0] && b.size[0] == c.size[0] && (!bias || bias.size[0] == c.size[0]) && !p.scale,
      ShapeError, "multiply_batch: operands are not of one batch, or have a scale");
  launch(Matmul<T, C>{.a = first_of(a),
                      .b = first_of(b),
                      .c = first_of(c),
                      .bias = first_of(bias),
                      .scale = {},
                      .accumulate = p.accumulate,
                      .batch = {c.size[0], a.stride[0], b.stride[0], c.stride[0], bias.stride[0]}},
         stream);
}

}  // namespace

void multiply(const Product& p, Stream& stream) {
  dispatch<double, float, bf16>(p.a.dtype(), "multiply", [&]<class T>() {
    if (p.c.dtype() == p.a.dtype())
      launch_matmul<T, T>(p, stream);
    else
      launch_matmul<T, Acc<T>>(p, stream);
  });
}

void multiply_batch(const Product& p, Stream& stream) {
  dispatch<double, float, bf16>(p.a.dtype(), "multiply_batch", [&]<class T>() {
    if (p.c.dtype() == p.a.dtype())
      launch_batch<T, T>(p, stream);
    else
      launch_batch<T, Acc<T>>(p, stream);
  });
}

void project(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) {
  if (!ctx.row_invariant)
    return multiply({.a = x, .b = weight.transpose(0, 1), .c = y, .bias = bias}, ctx.stream);
  dispatch<double, float, bf16>(x.dtype(), "project", [&]<class T>() {
    launch(LinearByRows<T>{.x = x.view<const T, 2>("x"),
                           .weight = weight.view<const T, 2>("weight"),
                           .bias = bias.optional_view<const Acc<T>, 1>("bias"),
                           .y = y.view<T, 2>("y")},
           ctx.stream);
  });
}

Shape with_last(const Shape& shape, int64_t last) {
  Shape result = shape;
  result[-1] = last;
  return result;
}

Tensor Linear::forward(Context& ctx, Saved* saved, const Config&, const Tensor& x, const Tensor& weight,
                       const Tensor& bias) {
  if (saved) *saved = {x, weight, bias.defined()};
  const Tensor y = Tensor::empty(with_last(x.shape(), weight.size(0)), x.dtype(), ctx.device());
  project(ctx, rows_of(x).slice(1, 0, weight.size(1)), weight, bias, rows_of(y));
  return y;
}

Grads<3> Linear::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<3>& needs) {
  const Tensor rows = rows_of(dy);
  const DType grad_dtype = accumulator_of(dy.dtype());
  Grads<3> gradients;
  if (needs[0]) {
    gradients[0] = needs[0].tensor(saved.x.shape(), saved.x.dtype(), ctx.device());
    const bool accumulate = needs[0].accumulates(saved.x.dtype());
    if (!accumulate && saved.weight.size(1) < saved.x.size(-1)) gradients[0].fill_zero(ctx.stream);
    multiply({.a = rows,
              .b = saved.weight,
              .c = rows_of(gradients[0]).slice(1, 0, saved.weight.size(1)),
              .accumulate = accumulate},
             ctx.stream);
  }
  if (needs[1]) {
    gradients[1] = needs[1].tensor(saved.weight.shape(), grad_dtype, ctx.device());
    multiply({.a = rows.transpose(0, 1),
              .b = rows_of(saved.x).slice(1, 0, saved.weight.size(1)),
              .c = gradients[1],
              .accumulate = needs[1].accumulates(grad_dtype)},
             ctx.stream);
  }
  if (saved.has_bias && needs[2]) {
    gradients[2] = needs[2].tensor({dy.size(-1)}, grad_dtype, ctx.device());
    dispatch<double, float, bf16>(dy.dtype(), name, [&]<class T>() {
      launch(ColumnSum<T>{.x = rows.view<const T, 2>("dy"),
                          .sum = gradients[2].view<Acc<T>, 1>("dbias"),
                          .accumulate = needs[2].accumulates(grad_dtype)},
             ctx.stream);
    });
  }
  return gradients;
}

}  // namespace headway
