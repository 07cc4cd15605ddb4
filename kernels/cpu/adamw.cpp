#include "kernels/ops/adamw.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

template <class T>
void update(const AdamWUpdate<T>& args, const AdamWParameter<T>& parameter) {
  const int64_t n = parameter.p.size[0];
  T *p = parameter.p.data, *m = parameter.m.data, *v = parameter.v.data;
  const T* grad = parameter.grad.data;
  const auto scale = static_cast<T>(args.grad_scale(0)), lr = static_cast<T>(args.lr),
             eps = static_cast<T>(args.eps);
  const auto keep = static_cast<T>(1 - args.lr * parameter.decay);
  const auto mix1 = static_cast<T>(1 - args.beta1), mix2 = static_cast<T>(1 - args.beta2);
  const auto inverse1 = static_cast<T>(1 / args.correction1), inverse2 = static_cast<T>(1 / args.correction2);
#pragma omp parallel for simd if (n >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i) {
    const T g = scale * grad[i];
    m[i] += mix1 * (g - m[i]);
    v[i] += mix2 * (g * g - v[i]);
    p[i] = keep * p[i] - lr * (m[i] * inverse1) / (std::sqrt(v[i] * inverse2) + eps);
  }
  for (int64_t i = 0; parameter.rounded && i < n; ++i)
    parameter.rounded.data[i] = bf16(static_cast<float>(p[i]));
}

template <class T>
void adamw_update(const AdamWUpdate<T>& args, Stream&) {
  if (args.grad_scale(0) < 0) return;
  for (const AdamWParameter<T>& parameter : args.parameters) update(args, parameter);
}

template <class T>
void sum_squares(const SumSquares<T>& args, Stream&) {
  constexpr int64_t kBlock = 1 << 15;
  const int64_t n = args.x.size[0], num_blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> partial(static_cast<size_t>(num_blocks));
#pragma omp parallel for if (n >= kSmallestParallel)
  for (int64_t block = 0; block < num_blocks; ++block) {
    const T* x = args.x.data + block * kBlock;
    const int64_t count = std::min(kBlock, n - block * kBlock);
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    partial[static_cast<size_t>(block)] = sum;
  }
  double sum = args.accumulate ? args.sum(0) : 0;
  for (const double value : partial) sum += value;
  args.sum(0) = sum;
}

HEADWAY_KERNEL(cpu, adamw_update<float>);
HEADWAY_KERNEL(cpu, adamw_update<double>);
HEADWAY_KERNEL(cpu, sum_squares<float>);
HEADWAY_KERNEL(cpu, sum_squares<double>);

}  // namespace
}  // namespace headway
