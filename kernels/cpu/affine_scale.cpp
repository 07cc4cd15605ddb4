#include "kernels/ops/affine_scale.h"

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

template <class T>
void affine_scale_forward(const AffineScaleForward<T>& args, Stream&) {
  const int64_t B = args.z.size[0], length = args.z.size[1], H = args.z.size[2];
#pragma omp parallel for if (args.z.numel() >= kSmallestParallel)
  for (int64_t h = 0; h < H; ++h) {
    T sum = 0;
    for (int64_t b = 0; b < B; ++b)
      for (int64_t t = 0; t < length; ++t) {
        const T alpha = affine_activate(args.config.activation, args.z(b, t, h));
        args.row_scale(b, h, t) = alpha;
        if (args.row_bias)
          args.row_bias(b, h, t) = (args.mean(h) - alpha) / static_cast<T>(args.config.count_at(t, length));
        sum += alpha;
      }
    if (args.alpha_sums) args.alpha_sums(h) += sum;
  }
}

template <class T>
void affine_scale_backward(const AffineScaleBackward<T>& args, Stream&) {
  const int64_t B = args.z.size[0], length = args.z.size[1], H = args.z.size[2];
#pragma omp parallel for collapse(2) if (args.z.numel() >= kSmallestParallel)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < length; ++t)
      for (int64_t h = 0; h < H; ++h) {
        T dalpha = args.drow_scale(b, h, t);
        if (args.drow_bias)
          dalpha -= args.drow_bias(b, h, t) / static_cast<T>(args.config.count_at(t, length));
        args.dz(b, t, h) = dalpha * affine_slope(args.config.activation, args.z(b, t, h));
      }
}

template <class T>
void update_running_mean(const UpdateRunningMean<T>& args, Stream&) {
  const T rho = static_cast<T>(args.rho),
          share = static_cast<T>((1 - args.rho) / static_cast<double>(args.count));
  for (int64_t i = 0; i < args.mean.size[0]; ++i) {
    if (!args.grad_scale || args.grad_scale(0) >= 0) args.mean(i) = rho * args.mean(i) + share * args.sums(i);
    args.sums(i) = 0;
  }
}

HEADWAY_KERNEL(cpu, update_running_mean<float>);
HEADWAY_KERNEL(cpu, update_running_mean<double>);
HEADWAY_KERNEL(cpu, affine_scale_forward<float>);
HEADWAY_KERNEL(cpu, affine_scale_forward<double>);
HEADWAY_KERNEL(cpu, affine_scale_backward<float>);
HEADWAY_KERNEL(cpu, affine_scale_backward<double>);

}  // namespace
}  // namespace headway
