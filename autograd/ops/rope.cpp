#include "autograd/ops/rope.h"

#include "autograd/ops/flat.h"
#include "kernels/ops/rope.h"

namespace headway {
namespace {

Tensor rotate(Context& ctx, const Tensor& x, const Tensor& table, bool inverse) {
  const Tensor y = empty_like(x);
  dispatch<double, float, bf16>(x.dtype(), Rope::name, [&]<class T>() {
    launch(RopeRotate<T>{.x = x.view<const T, 4>("x"),
                         .table = table.view<const Acc<T>, 3>("table"),
                         .y = y.view<T, 4>("y"),
                         .inverse = inverse},
           ctx.stream);
  });
  return y;
}

}  // namespace

Tensor Rope::forward(Context& ctx, Saved* saved, const Config&, const Tensor& x, const Tensor& table) {
  if (saved) *saved = {table};
  return rotate(ctx, x, table, false);
}

Grads<2> Rope::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<2>&) {
  return {rotate(ctx, dy, saved.table, true), Tensor()};
}

}  // namespace headway
