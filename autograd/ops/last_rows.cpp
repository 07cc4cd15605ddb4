#include "autograd/ops/last_rows.h"

#include <algorithm>

namespace headway {
namespace {

/// Rows first .. first + count of `from` to rows to_first .. of `to`, for every sequence.
void copy_rows(const Tensor& from, int64_t first, const Tensor& to, int64_t to_first, int64_t count,
               Stream& stream) {
  if (count == 0) return;
  for (int64_t b = 0; b < from.size(0); ++b)
    to.slice(0, b, b + 1)
        .slice(1, to_first, to_first + count)
        .copy_from(from.slice(0, b, b + 1).slice(1, first, first + count), stream);
}

}  // namespace

Tensor LastRows::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x,
                         const Tensor& before) {
  const int64_t length = x.size(1), fresh = std::min(length, config.count), kept = config.count - fresh;
  Shape shape = x.shape();
  shape[1] = config.count;
  const Tensor y = Tensor::zeros(shape, x.dtype(), ctx.stream);
  if (before) copy_rows(before, fresh, y, 0, kept, ctx.stream);
  copy_rows(x, length - fresh, y, kept, fresh, ctx.stream);
  if (saved) *saved = {x.shape(), before ? before.shape() : Shape(), x.dtype(), config};
  return y;
}

Grads<2> LastRows::backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<2>& needs) {
  const int64_t length = saved.x_shape[1], fresh = std::min(length, saved.config.count),
                kept = saved.config.count - fresh;
  Grads<2> gradients;
  gradients[0] = Tensor::zeros(saved.x_shape, saved.dtype, ctx.stream);
  copy_rows(dy, kept, gradients[0], length - fresh, fresh, ctx.stream);
  if (needs[1] && saved.before_shape.rank() > 0) {
    gradients[1] = Tensor::zeros(saved.before_shape, saved.dtype, ctx.stream);
    copy_rows(dy, 0, gradients[1], fresh, kept, ctx.stream);
  }
  return gradients;
}

}  // namespace headway
