#include "autograd/ops/elementwise.h"

#include "autograd/apply.h"
#include "autograd/ops/flat.h"
#include "core/comm/sequence_split.h"
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

void mask(Context& ctx, const Tensor& x, const Tensor& y, const RandomKey& key, double rate) {
  dispatch<double, float, bf16>(x.dtype(), Dropout::name, [&]<class T>() {
    launch(DropoutMask<T>{.x = flat<const T>(x, "x"), .y = flat<T>(y, "y"), .key = key, .rate = rate},
           ctx.stream);
  });
}

Tensor mask(Context& ctx, const Dropout::Config& config, const Tensor& x) {
  const Tensor y = empty_like(x);
  if (!config.split) {
    mask(ctx, x, y, config.key, config.rate);
    return y;
  }
  // Every element has the number that it has in the whole sequence.
  const Zigzag zigzag = config.split->zigzag();
  const int64_t rows = 2 * x.size(0), size = x.numel() / rows;
  const Tensor from = x.reshape({rows, size}), to = y.reshape({rows, size});
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t segment = row / 2 * zigzag.num_segments() + zigzag.segment(config.split->rank(), row % 2);
    RandomKey key = config.key;
    key.first_element += static_cast<uint64_t>(segment * size);
    mask(ctx, from.slice(0, row, row + 1), to.slice(0, row, row + 1), key, config.rate);
  }
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
  const int64_t num_ranks = ctx.split ? ctx.split->zigzag().num_ranks : 1;
  const auto per_sample = static_cast<uint64_t>(num_ranks * x.value().numel() / x.size(0));
  return apply<Dropout>(ctx, {.rate = rate, .key = ctx.rng.next(per_sample), .split = ctx.split}, x);
}

}  // namespace headway
