#include "kernels/ops/embedding.h"

#include <algorithm>

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

template <class T>
void embedding_forward(const EmbeddingForward<T>& args, Stream&) {
  const int64_t N = args.y.size[0], D = args.y.size[1];
#pragma omp parallel for if (N * D >= kSmallestParallel)
  for (int64_t n = 0; n < N; ++n) std::copy_n(args.weight.data + args.ids(n) * D, D, args.y.data + n * D);
}

// Tokens repeat, so threads share out the columns: each adds to its own, in the order of the tokens.
template <class T>
void embedding_backward(const EmbeddingBackward<T>& args, Stream&) {
  const int64_t N = args.dy.size[0], D = args.dy.size[1], V = args.dweight.size[0];
  if (!args.accumulate) {
#pragma omp parallel for if (V * D >= kSmallestParallel)
    for (int64_t v = 0; v < V; ++v) std::fill_n(args.dweight.data + v * D, D, Acc<T>(0));
  }
  constexpr int64_t kColumns = 64;
#pragma omp parallel for if (N * D >= kSmallestParallel)
  for (int64_t first = 0; first < D; first += kColumns) {
    const int64_t width = std::min(kColumns, D - first);
    for (int64_t n = 0; n < N; ++n) {
      Acc<T>* to = args.dweight.data + args.ids(n) * D + first;
      const T* from = args.dy.data + n * D + first;
#pragma omp simd
      for (int64_t d = 0; d < width; ++d) to[d] += from[d];
    }
  }
}

template <class T>
void add_positions_forward(const AddPositionsForward<T>& args, Stream&) {
  const int64_t B = args.x.size[0], length = args.x.size[1], D = args.x.size[2];
#pragma omp parallel for if (B * length * D >= kSmallestParallel)
  for (int64_t row = 0; row < B * length; ++row) {
    const T* x = args.x.data + row * D;
    const T* weight = args.weight.data + args.positions.of(row % length) * D;
    T* y = args.y.data + row * D;
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) y[d] = x[d] + weight[d];
  }
}

template <class T>
void add_positions_backward(const AddPositionsBackward<T>& args, Stream&) {
  const int64_t B = args.dy.size[0], length = args.dy.size[1], D = args.dy.size[2], P = args.dweight.size[0];
#pragma omp parallel for if (P * D >= kSmallestParallel)
  for (int64_t p = 0; p < P; ++p) {
    Acc<T>* to = args.dweight.data + p * D;
    if (!args.accumulate) std::fill_n(to, D, Acc<T>(0));
    const int64_t t = args.positions.token_at(p);
    if (t < 0 || t >= length) continue;
    for (int64_t b = 0; b < B; ++b) {
      const T* from = args.dy.data + (b * length + t) * D;
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) to[d] += from[d];
    }
  }
}

HEADWAY_KERNEL(cpu, embedding_forward<float>);
HEADWAY_KERNEL(cpu, embedding_forward<double>);
HEADWAY_KERNEL(cpu, embedding_backward<float>);
HEADWAY_KERNEL(cpu, embedding_backward<double>);
HEADWAY_KERNEL(cpu, add_positions_forward<float>);
HEADWAY_KERNEL(cpu, add_positions_forward<double>);
HEADWAY_KERNEL(cpu, add_positions_backward<float>);
HEADWAY_KERNEL(cpu, add_positions_backward<double>);

}  // namespace
}  // namespace headway
