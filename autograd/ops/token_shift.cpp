#include "autograd/ops/token_shift.h"

#include "autograd/ops/flat.h"
#include "kernels/ops/token_shift.h"

namespace headway {
namespace {

Tensor shift(Context& ctx, const Tensor& x, const Tensor& previous, int64_t first_shifted, bool inverse) {
  const Tensor y = empty_like(x);
  dispatch<double, float, bf16>(x.dtype(), TokenShift::name, [&]<class T>() {
    launch(TokenShiftRows<T>{.x = x.view<const T, 3>("x"),
                             .previous = previous.optional_view<const T, 3>("previous"),
                             .y = y.view<T, 3>("y"),
                             .first_shifted = first_shifted,
                             .inverse = inverse},
           ctx.stream);
  });
  return y;
}

}  // namespace

Tensor TokenShift::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x,
                           const Tensor& previous) {
  if (saved) *saved = {config};
  return shift(ctx, x, previous, config.first_shifted, false);
}

Grads<2> TokenShift::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<2>&) {
  return {shift(ctx, dy, Tensor(), saved.config.first_shifted, true), Tensor()};
}

}  // namespace headway
