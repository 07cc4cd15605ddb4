#include "kernels/ops/activation.h"

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace headway {
namespace {

template <class T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + vector_exp(-x));
}

// 2 sqrt(2/pi) and its product with 0.044715
constexpr double kGeluLinear = 1.5957691216057308;
constexpr double kGeluCubic = 0.071354816272600248;

template <class T>
void silu_forward(const SiluForward<T>& args, Stream&) {
  const int64_t n = args.y.size[0];
  const T* x = args.x.data;
  T* y = args.y.data;
#pragma omp parallel for simd if (n >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * sigmoid(x[i]);
}

template <class T>
void silu_backward(const SiluBackward<T>& args, Stream&) {
  const int64_t n = args.dy.size[0];
  const T *dy = args.dy.data, *x = args.x.data;
  T* dx = args.dx.data;
#pragma omp parallel for simd if (n >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i) {
    const T s = sigmoid(x[i]);
    dx[i] = dy[i] * s * (T(1) + x[i] * (T(1) - s));
  }
}

template <class T>
void swiglu_forward(const SwiGluForward<T>& args, Stream&) {
  const int64_t n = args.y.size[0];
  const T *gate = args.gate.data, *up = args.up.data;
  T* y = args.y.data;
#pragma omp parallel for simd if (n >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

template <class T>
void swiglu_backward(const SwiGluBackward<T>& args, Stream&) {
  const int64_t n = args.dy.size[0];
  const T *dy = args.dy.data, *gate = args.gate.data, *up = args.up.data;
  T *dgate = args.dgate.data, *dup = args.dup.data;
#pragma omp parallel for simd if (n >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i) {
    const T s = sigmoid(gate[i]), silu = gate[i] * s;
    dup[i] = dy[i] * silu;
    dgate[i] = dy[i] * up[i] * (s + silu * (T(1) - s));
  }
}

template <class T>
void gelu_forward(const GeluForward<T>& args, Stream&) {
  const int64_t n = args.y.size[0];
  const T* x = args.x.data;
  T* y = args.y.data;
  constexpr T a = static_cast<T>(kGeluLinear), b = static_cast<T>(kGeluCubic);
#pragma omp parallel for simd if (n >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * sigmoid(x[i] * (a + b * x[i] * x[i]));
}

template <class T>
void gelu_backward(const GeluBackward<T>& args, Stream&) {
  const int64_t n = args.dy.size[0];
  const T *dy = args.dy.data, *x = args.x.data;
  T* dx = args.dx.data;
  constexpr T a = static_cast<T>(kGeluLinear), b = static_cast<T>(kGeluCubic);
#pragma omp parallel for simd if (n >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i) {
    const T square = x[i] * x[i], s = sigmoid(x[i] * (a + b * square));
    dx[i] = dy[i] * (s + x[i] * s * (T(1) - s) * (a + 3 * b * square));
  }
}

HEADWAY_KERNEL(cpu, silu_forward<float>);
HEADWAY_KERNEL(cpu, silu_forward<double>);
HEADWAY_KERNEL(cpu, silu_backward<float>);
HEADWAY_KERNEL(cpu, silu_backward<double>);
HEADWAY_KERNEL(cpu, swiglu_forward<float>);
HEADWAY_KERNEL(cpu, swiglu_forward<double>);
HEADWAY_KERNEL(cpu, swiglu_backward<float>);
HEADWAY_KERNEL(cpu, swiglu_backward<double>);
HEADWAY_KERNEL(cpu, gelu_forward<float>);
HEADWAY_KERNEL(cpu, gelu_forward<double>);
HEADWAY_KERNEL(cpu, gelu_backward<float>);
HEADWAY_KERNEL(cpu, gelu_backward<double>);

}  // namespace
}  // namespace headway
