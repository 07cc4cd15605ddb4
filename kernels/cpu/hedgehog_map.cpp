#include "kernels/ops/hedgehog_map.h"

#include <algorithm>
#include <cmath>

#include "core/max_or_nan.h"
#include "kernels/cpu/dot.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace headway {
namespace {

/// y = exp(scale u - shift); returns the sum.
template <class T>
T exponentials(const T* u, T scale, T shift, int64_t Df, T* y) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < Df; ++i) {
    y[i] = vector_exp(scale * u[i] - shift);
    sum += y[i];
  }
  return sum;
}
template <class T>
void divide(T* y, T divisor, int64_t n) {
  const T factor = T(1) / divisor;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] *= factor;
}

template <class T>
void map_row(HedgehogFeatures features, const T* u, T shift, int64_t Df, T* y) {
  T largest = u[0], smallest = u[0];
  for (int64_t i = 1; i < Df; ++i) {
    largest = std::max(largest, u[i]);
    smallest = std::min(smallest, u[i]);
  }
  const bool joint = features == HedgehogFeatures::joint, shifted = features != HedgehogFeatures::exp;
  const T scale = joint ? T(2) : T(1), common = scale * std::max(largest, -smallest);
  const T plus = exponentials(u, scale, joint ? common : shifted ? largest : shift, Df, y);
  const T minus = exponentials(u, -scale, joint ? common : shifted ? -smallest : shift, Df, y + Df);
  if (features == HedgehogFeatures::softmax) {
    divide(y, plus, Df);
    divide(y + Df, minus, Df);
  }
  if (joint) divide(y, plus + minus, 2 * Df);
}

template <class T>
void map_row_backward(HedgehogFeatures features, const T* y, const T* dy, int64_t Df, T* du) {
  const T plus = dot(y, dy, Df), minus = dot(y + Df, dy + Df, Df);
  const bool joint = features == HedgehogFeatures::joint, softmax = features == HedgehogFeatures::softmax;
  const T scale = joint ? T(2) : T(1);
  const T mean_plus = joint ? plus + minus : softmax ? plus : T(0);
  const T mean_minus = joint ? plus + minus : softmax ? minus : T(0);
#pragma omp simd
  for (int64_t i = 0; i < Df; ++i)
    du[i] = scale * (y[i] * (dy[i] - mean_plus) - y[Df + i] * (dy[Df + i] - mean_minus));
  if (features == HedgehogFeatures::expmax) {
    du[std::max_element(y, y + Df) - y] -= plus;
    du[std::max_element(y + Df, y + 2 * Df) - (y + Df)] += minus;
  }
}

template <class T>
void hedgehog_map_forward(const HedgehogMapForward<T>& args, Stream&) {
  const int64_t N = args.u.size[0], Df = args.u.size[1];
#pragma omp parallel for if (N * Df >= kSmallestParallel)
  for (int64_t n = 0; n < N; ++n)
    map_row(args.features, args.u.data + n * Df, args.shift ? args.shift(n) : T(0), Df,
            args.y.data + 2 * n * Df);
}

template <class T>
void hedgehog_map_backward(const HedgehogMapBackward<T>& args, Stream&) {
  const int64_t N = args.du.size[0], Df = args.du.size[1];
#pragma omp parallel for if (N * Df >= kSmallestParallel)
  for (int64_t n = 0; n < N; ++n)
    map_row_backward(args.features, args.y.data + 2 * n * Df, args.dy.data + 2 * n * Df, Df,
                     args.du.data + n * Df);
}

template <class T>
T largest_magnitude(const T* u, int64_t n) {
  T largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = max_or_nan(largest, std::abs(u[i]));
  return largest;
}

template <class T>
void hedgehog_shift(const HedgehogShift<T>& args, Stream&) {
  const int64_t B = args.key.size[0], L = args.key.size[1], H = args.key.size[2], Df = args.key.size[3];
#pragma omp parallel for collapse(2) if (args.key.numel() >= kSmallestParallel)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h) {
      T shift = args.before ? args.before(b, h) : T(0);
      for (int64_t t = 0; t < L; ++t) {
        const T before = shift;
        shift = std::max(shift, largest_magnitude(&args.key(b, t, h, 0), Df) - static_cast<T>(args.bound));
        const T query_shift = largest_magnitude(&args.query(b, t, h, 0), Df);
        args.query_shift(b, t, h) = query_shift;
        args.key_shift(b, t, h) = shift;
        args.log_decay(b, t, h) = before - shift;
        args.token_eps(b, t, h) = std::max(static_cast<T>(args.eps) * std::exp(-query_shift - shift),
                                           static_cast<T>(args.smallest));
      }
      args.after(b, h) = shift;
    }
}

HEADWAY_KERNEL(cpu, hedgehog_shift<float>);
HEADWAY_KERNEL(cpu, hedgehog_shift<double>);
HEADWAY_KERNEL(cpu, hedgehog_map_forward<float>);
HEADWAY_KERNEL(cpu, hedgehog_map_forward<double>);
HEADWAY_KERNEL(cpu, hedgehog_map_backward<float>);
HEADWAY_KERNEL(cpu, hedgehog_map_backward<double>);

}  // namespace
}  // namespace headway
