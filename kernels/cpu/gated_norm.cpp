#include "kernels/ops/gated_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace headway {
namespace {

/// act(u) and its derivative.
template <class T>
struct Gate {
  T value, slope;
};
template <class T>
inline Gate<T> gate_of(T u, bool sigmoid) {
  const T s = T(1) / (T(1) + vector_exp(-u));
  return {sigmoid ? s : u, sigmoid ? s * (T(1) - s) : T(1)};
}

template <class T>
void gated_norm_forward(const GatedNormForward<T>& args, Stream&) {
  const int64_t N = args.x.size[0], D = args.x.size[1];
  const bool sigmoid = args.activation == GateActivation::sigmoid;
#pragma omp parallel for if (N * D >= kSmallestParallel)
  for (int64_t n = 0; n < N; ++n) {
    const T* const x = args.x.data + n * D;
    T* const y = args.y.data + n * D;
    T squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t d = 0; d < D; ++d) squares += x[d] * x[d];
    const T inverse = T(1) / std::sqrt(squares / static_cast<T>(D) + static_cast<T>(args.eps));
    args.inverse(n) = inverse;
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) y[d] = x[d] * inverse;
    if (args.weight) {
      const T* const weight = args.weight.data;
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) y[d] *= weight[d];
    }
    if (args.gate) {
      const T* const gate = args.gate.data + n * D;
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) y[d] *= gate_of(gate[d], sigmoid).value;
    }
  }
}

/// dx and dgate of one row; adds the row's share to dweight. g is room for D numbers.
template <class T>
void backward_row(const GatedNormBackward<T>& args, int64_t n, T* g, T* dweight) {
  const int64_t D = args.x.size[1];
  const bool sigmoid = args.activation == GateActivation::sigmoid;
  const T *dy = args.dy.data + n * D, *x = args.x.data + n * D;
  T* const dx = args.dx.data + n * D;
  const T inverse = args.inverse(n);
  std::copy_n(dy, D, g);
  if (args.gate) {
    const T* const gate = args.gate.data + n * D;
    T* const dgate = args.dgate.data + n * D;
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) {
      const Gate<T> a = gate_of(gate[d], sigmoid);
      dgate[d] = dy[d] * x[d] * inverse * a.slope;
      g[d] *= a.value;
    }
  }
  if (args.weight) {
    const T* const weight = args.weight.data;
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) {
      dweight[d] += g[d] * x[d] * inverse;
      g[d] *= weight[d];
    }
    if (args.gate) {
      T* const dgate = args.dgate.data + n * D;
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) dgate[d] *= weight[d];
    }
  }
  T product = 0;
#pragma omp simd reduction(+ : product)
  for (int64_t d = 0; d < D; ++d) product += g[d] * x[d];
  const T mean = product * inverse / static_cast<T>(D);
#pragma omp simd
  for (int64_t d = 0; d < D; ++d) dx[d] = inverse * (g[d] - x[d] * inverse * mean);
}

template <class T>
void gated_norm_backward(const GatedNormBackward<T>& args, Stream& stream) {
  const int64_t N = args.x.size[0], D = args.x.size[1];
  const int64_t num_blocks = num_reduction_blocks(N);
  // dweight [block][D], then g [block][D]
  T* const partial =
      reinterpret_cast<T*>(stream.scratch(static_cast<size_t>(num_blocks * 2 * D) * sizeof(T)).data());
#pragma omp parallel for if (N * D >= kSmallestParallel)
  for (int64_t block = 0; block < num_blocks; ++block) {
    T* const dweight = partial + block * D;
    std::fill_n(dweight, D, T(0));
    for (int64_t n = N * block / num_blocks; n < N * (block + 1) / num_blocks; ++n)
      backward_row(args, n, dweight + num_blocks * D, dweight);
  }
  if (args.weight) add_blocks(partial, num_blocks, args.dweight, args.accumulate_weight);
}

HEADWAY_KERNEL(cpu, gated_norm_forward<float>);
HEADWAY_KERNEL(cpu, gated_norm_forward<double>);
HEADWAY_KERNEL(cpu, gated_norm_backward<float>);
HEADWAY_KERNEL(cpu, gated_norm_backward<double>);

}  // namespace
}  // namespace headway
