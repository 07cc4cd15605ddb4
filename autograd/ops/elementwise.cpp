#include "autograd/ops/elementwise.h"

#include "autograd/apply.h"
#include "autograd/ops/flat.h"
#include "kernels/ops/elementwise.h"

namespace headway {
namespace {

Tensor scaled(Context& ctx, const Scale::Config& config, const Tensor& x) {
  const Tensor y = empty_like(x);
  dispatch<double, float, bf16>(x.dtype(), Scale::name, [&]<class T>() {
    launch(ScaleForward<T>{.x = flat<const T>(x, "x"), .y = flat<T>(y, "y"), .factor = config.factor},
           ctx.stream);
  });
  return y;
}

Tensor mask(Context& ctx, const Dropout::Config& config, const Tensor& x) {
  const Tensor y = empty_like(x);
  dispatch<double, float, bf16>(x.dtype(), Dropout::name, [&]<class T>() {
    launch(
        DropoutMask<T>{
            .x = flat<const T>(x, "x"), .y = flat<T>(y, "y"), .key = config.key, .rate = config.rate},
        ctx.stream);
  });
  return y;
}

}  // namespace

Tensor Add::forward(Context& ctx, Saved*, const Config&, const Tensor& a, const Tensor& b) {
  HEADWAY_CHECK(a.shape() == b.shape(), ShapeError,
                "add: " + a.shape().to_string() + " plus " + b.shape().to_string());
  const Tensor y = empty_like(a);
  dispatch<double, float, bf16>(a.dtype(), name, [&]<class T>() {
    launch(AddForward<T>{.a = flat<const T>(a, "a"), .b = flat<const T>(b, "b"), .y = flat<T>(y, "y")},
           ctx.stream);
  });
  return y;
}

Tensor Scale::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x) {
  if (saved) *saved = {config};
  return scaled(ctx, config, x);
}

Grads<1> Scale::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<1>&) {
  return {scaled(ctx, saved.config, dy)};
}

Tensor Dropout::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x) {
  if (saved) *saved = {config};
  return mask(ctx, config, x);
}

Grads<1> Dropout::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<1>&) {
  return {mask(ctx, saved.config, dy)};
}

Variable dropout(Context& ctx, const Variable& x, double rate) {
  if (!ctx.training || rate == 0) return x;
  const auto per_sample = static_cast<uint64_t>(x.value().numel() / x.size(0));
  return apply<Dropout>(ctx, {.rate = rate, .key = ctx.rng.next(per_sample)}, x);
}

}  // namespace headway
