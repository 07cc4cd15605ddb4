#include "kernels/ops/norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

template <class T>
T mean_of(const T* x, int64_t D) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < D; ++d) sum += x[d];
  return sum / static_cast<T>(D);
}

template <class T>
T mean_square_from(const T* x, T center, int64_t D) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < D; ++d) sum += (x[d] - center) * (x[d] - center);
  return sum / static_cast<T>(D);
}

template <class T>
void norm_forward(const NormForward<T>& args, Stream&) {
  const int64_t N = args.x.size[0], D = args.x.size[1];
  const bool centered = args.kind == NormKind::layer;
#pragma omp parallel for if (N * D >= kSmallestParallel)
  for (int64_t n = 0; n < N; ++n) {
    const T* x = args.x.data + n * D;
    T* y = args.y.data + n * D;
    if (args.update) {
      const T* update = args.update.data + n * D;
      T* sum = args.sum.data + n * D;
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) sum[d] = x[d] + update[d];
      x = sum;
    }
    const T mean = centered ? mean_of(x, D) : T(0);
    const T inverse = T(1) / std::sqrt(mean_square_from(x, mean, D) + static_cast<T>(args.eps));
    if (centered) args.mean(n) = mean;
    args.inverse(n) = inverse;
    const T* weight = args.weight.data;
    if (args.bias) {
      const T* bias = args.bias.data;
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) y[d] = (x[d] - mean) * inverse * weight[d] + bias[d];
    } else {
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) y[d] = (x[d] - mean) * inverse * weight[d];
    }
  }
}

// dx of one row; adds the row's share to dweight and dbias.
template <class T>
void backward_row(const NormBackward<T>& args, int64_t n, T* dweight, T* dbias) {
  const int64_t D = args.x.size[1];
  const T *dy = args.dy.data + n * D, *x = args.x.data + n * D, *weight = args.weight.data;
  T* dx = args.dx.data + n * D;
  const T* added = args.added ? args.added.data + n * D : nullptr;
  const bool centered = args.kind == NormKind::layer;
  const T mean = centered ? args.mean(n) : T(0), inverse = args.inverse(n);
  T sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
  for (int64_t d = 0; d < D; ++d) {
    const T xhat = (x[d] - mean) * inverse, g = dy[d] * weight[d];
    sum += g;
    product += g * xhat;
    dweight[d] += dy[d] * xhat;
    dbias[d] += dy[d];
  }
  const T mean_g = centered ? sum / static_cast<T>(D) : T(0), mean_product = product / static_cast<T>(D);
#pragma omp simd
  for (int64_t d = 0; d < D; ++d) {
    const T xhat = (x[d] - mean) * inverse;
    const T before = added ? added[d] : T(0);
    dx[d] = before + inverse * (dy[d] * weight[d] - mean_g - xhat * mean_product);
  }
}

template <class T>
void norm_backward(const NormBackward<T>& args, Stream& stream) {
  const int64_t N = args.x.size[0], D = args.x.size[1];
  const int64_t num_blocks = num_reduction_blocks(N);
  // dweight [block][D], then dbias [block][D]
  T* partial =
      reinterpret_cast<T*>(stream.scratch(static_cast<size_t>(num_blocks * 2 * D) * sizeof(T)).data());
#pragma omp parallel for if (N * D >= kSmallestParallel)
  for (int64_t block = 0; block < num_blocks; ++block) {
    T *dweight = partial + block * D, *dbias = dweight + num_blocks * D;
    std::fill_n(dweight, D, T(0));
    std::fill_n(dbias, D, T(0));
    for (int64_t n = N * block / num_blocks; n < N * (block + 1) / num_blocks; ++n)
      backward_row(args, n, dweight, dbias);
  }
  add_blocks(partial, num_blocks, args.dweight, args.accumulate_weight);
  if (args.dbias) add_blocks(partial + num_blocks * D, num_blocks, args.dbias, args.accumulate_bias);
}

HEADWAY_KERNEL(cpu, norm_forward<float>);
HEADWAY_KERNEL(cpu, norm_forward<double>);
HEADWAY_KERNEL(cpu, norm_backward<float>);
HEADWAY_KERNEL(cpu, norm_backward<double>);

}  // namespace
}  // namespace headway
