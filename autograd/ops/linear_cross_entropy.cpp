#include "autograd/ops/linear_cross_entropy.h"

#include <algorithm>

#include "autograd/ops/flat.h"
#include "autograd/ops/linear.h"
#include "kernels/ops/cross_entropy.h"

namespace headway {
namespace {

int64_t rows_per_block(const LinearCrossEntropy::Config& config, const Tensor& x, const Tensor& weight) {
  const size_t row_bytes = static_cast<size_t>(weight.size(0)) * size_of(x.dtype());
  const size_t bytes =
      config.block_bytes > 0 ? config.block_bytes : LinearCrossEntropy::default_block_bytes(x.device().kind);
  return std::max<int64_t>(1, static_cast<int64_t>(bytes / row_bytes));
}

/// Logits of the rows, their losses, and their gradients in their place.
Tensor block_logits(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& targets,
                    const Tensor& losses, double scale, bool write_gradient) {
  const Tensor logits = Tensor::empty({x.size(0), weight.size(0)}, x.dtype(), ctx.device());
  multiply({.a = x, .b = weight.transpose(0, 1), .c = logits}, ctx.stream);
  dispatch<double, float, bf16>(x.dtype(), "linear_cross_entropy", [&]<class T>() {
    launch(CrossEntropy<T>{.logits = logits.view<T, 2>("logits"),
                           .targets = targets.view<const int32_t, 1>("targets"),
                           .losses = losses.view<Acc<T>, 1>("losses"),
                           .scale = scale,
                           .write_gradient = write_gradient},
           ctx.stream);
  });
  return logits;
}

/// Of each row of x. dlogits: the gradient of the logits, where it is wanted and one block holds it.
Tensor losses_of(Context& ctx, const LinearCrossEntropy::Config& config, const Tensor& x,
                 const Tensor& weight, const Tensor& targets, Tensor* dlogits) {
  const Tensor rows = rows_of(x), flat_targets = targets.reshape({-1});
  const int64_t N = rows.size(0), block = rows_per_block(config, x, weight);
  const bool keep = dlogits && block >= N;
  const Tensor losses = Tensor::empty({N}, accumulator_of(x.dtype()), ctx.device());
  for (int64_t lo = 0; lo < N; lo += block) {
    const int64_t hi = std::min(N, lo + block);
    const Tensor logits = block_logits(ctx, rows.slice(0, lo, hi), weight, flat_targets.slice(0, lo, hi),
                                       losses.slice(0, lo, hi), config.loss_scale, keep);
    if (keep) *dlogits = logits;
  }
  return losses;
}

}  // namespace

Tensor LinearCrossEntropy::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x,
                                   const Tensor& weight, const Tensor& targets) {
  Tensor dlogits;
  const Tensor losses = losses_of(ctx, config, x, weight, targets, saved ? &dlogits : nullptr);
  if (saved) *saved = {x, weight, targets.reshape({-1}), dlogits, config};

  const Tensor loss = Tensor::empty({1}, losses.dtype(), ctx.device());
  dispatch<double, float>(losses.dtype(), name, [&]<class T>() {
    launch(SumRows<T>{.values = losses.view<const T, 1>("losses"),
                      .sum = loss.view<T, 1>("loss"),
                      .scale = config.loss_scale},
           ctx.stream);
  });
  return loss;
}

Tensor LinearCrossEntropy::token_losses(Context& ctx, const Tensor& x, const Tensor& weight,
                                        const Tensor& targets) {
  return losses_of(ctx, {}, x, weight, targets, nullptr);
}

Grads<3> LinearCrossEntropy::backward(Context& ctx, const Saved& saved, const Tensor& dy,
                                      const Needs<3>& needs) {
  const Tensor rows = rows_of(saved.x);
  const int64_t N = rows.size(0), block = rows_per_block(saved.config, saved.x, saved.weight);
  const DType dtype = accumulator_of(saved.x.dtype());
  const Tensor losses = saved.dlogits ? Tensor() : Tensor::empty({N}, dtype, ctx.device());
  Grads<3> gradients;
  if (needs[0]) gradients[0] = empty_like(saved.x);
  if (needs[1]) gradients[1] = needs[1].tensor(saved.weight.shape(), dtype, ctx.device());
  for (int64_t lo = 0; lo < N; lo += block) {
    const int64_t hi = std::min(N, lo + block);
    const Tensor x = rows.slice(0, lo, hi);
    const Tensor dlogits = saved.dlogits
                               ? saved.dlogits
                               : block_logits(ctx, x, saved.weight, saved.targets.slice(0, lo, hi),
                                              losses.slice(0, lo, hi), saved.config.loss_scale, true);
    if (needs[0]) {
      const Tensor dx = rows_of(gradients[0]).slice(0, lo, hi);
      multiply({.a = dlogits, .b = saved.weight, .c = dx, .scale = dy}, ctx.stream);
    }
    if (needs[1]) {
      multiply({.a = dlogits.transpose(0, 1),
                .b = x,
                .c = gradients[1],
                .scale = dy,
                .accumulate = lo > 0 || needs[1].accumulates(dtype)},
               ctx.stream);
    }
  }
  return gradients;
}

}  // namespace headway
