#include "autograd/ops/affine_scale.h"

#include "autograd/ops/flat.h"

namespace headway {

std::array<Tensor, 2> AffineScale::forward(Context& ctx, Saved* saved, const Config& config, const Tensor& z,
                                           const Tensor& mean, const Tensor& alpha_sums) {
  if (saved) *saved = {z, config};
  const Shape shape{z.size(0), z.size(2), z.size(1)};
  const auto output = [&] { return Tensor::empty(shape, accumulator_of(z.dtype()), ctx.device()); };
  const Tensor row_scale = output(), row_bias = config.has_bias ? output() : Tensor();
  dispatch<double, float, bf16>(z.dtype(), name, [&]<class T>() {
    launch(AffineScaleForward<T>{.config = config.scale,
                                 .z = z.view<const T, 3>("z"),
                                 .mean = mean.view<const Acc<T>, 1>("mean"),
                                 .row_scale = row_scale.view<Acc<T>, 3>("row_scale"),
                                 .row_bias = row_bias.optional_view<Acc<T>, 3>("row_bias"),
                                 .alpha_sums = alpha_sums.optional_view<Acc<T>, 1>("alpha_sums")},
           ctx.stream);
  });
  return {row_scale, row_bias};
}

Grads<3> AffineScale::backward(Context& ctx, const Saved& saved, const Grads<2>& dy, const Needs<3>&) {
  const Tensor dz = empty_like(saved.z);
  dispatch<double, float, bf16>(saved.z.dtype(), name, [&]<class T>() {
    launch(AffineScaleBackward<T>{.config = saved.config.scale,
                                  .z = saved.z.view<const T, 3>("z"),
                                  .drow_scale = dy[0].view<const Acc<T>, 3>("drow_scale"),
                                  .drow_bias = dy[1].optional_view<const Acc<T>, 3>("drow_bias"),
                                  .dz = dz.view<T, 3>("dz")},
           ctx.stream);
  });
  return {dz, Tensor(), Tensor()};
}

void update_running_mean(const Tensor& mean, const Tensor& sums, double rho, int64_t count,
                         const Tensor& grad_scale, Stream& stream) {
  dispatch<double, float>(mean.dtype(), "running mean", [&]<class T>() {
    launch(UpdateRunningMean<T>{.mean = mean.view<T, 1>("mean"),
                                .sums = sums.view<T, 1>("sums"),
                                .grad_scale = grad_scale.optional_view<const double, 1>("grad_scale"),
                                .rho = rho,
                                .count = count},
           stream);
  });
}

}  // namespace headway
