#include "kernels/ops/norm_rope.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/dot.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/turn.h"

namespace headway {
namespace {

/// The angles of a row of heads.
template <class Args>
auto angles_of(const Args& args, int64_t row) {
  const int64_t token = row / args.x.size[2] % args.x.size[1];
  return args.table.data + token * args.table.size[1] * 2;
}

template <class T>
void norm_rope_forward(const NormRopeForward<T>& args, Stream&) {
  const int64_t D = args.x.size[3], N = args.inverse.size[0], half = args.table.size[1];
#pragma omp parallel for if (N * D >= kSmallestParallel)
  for (int64_t n = 0; n < N; ++n) {
    const T *x = args.x.data + n * D, *weight = args.weight.data;
    T* y = args.y.data + n * D;
    const T inverse = T(1) / std::sqrt(dot(x, x, D) / static_cast<T>(D) + static_cast<T>(args.eps));
    args.inverse(n) = inverse;
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) y[d] = x[d] * inverse * weight[d];
    turn(y, angles_of(args, n), half, D, T(1), y);
  }
}

template <class T>
void norm_rope_backward(const NormRopeBackward<T>& args, Stream& stream) {
  const int64_t D = args.x.size[3], N = args.inverse.size[0], half = args.table.size[1];
  const int64_t num_blocks = num_reduction_blocks(N);
  T* partial = reinterpret_cast<T*>(stream.scratch(static_cast<size_t>(num_blocks * D) * sizeof(T)).data());
#pragma omp parallel for if (N * D >= kSmallestParallel)
  for (int64_t block = 0; block < num_blocks; ++block) {
    T* dweight = partial + block * D;
    std::fill_n(dweight, D, T(0));
    for (int64_t n = N * block / num_blocks; n < N * (block + 1) / num_blocks; ++n) {
      const T *x = args.x.data + n * D, *weight = args.weight.data, inverse = args.inverse(n);
      T* dx = args.dx.data + n * D;
      turn(args.dy.data + n * D, angles_of(args, n), half, D, T(-1), dx);
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) {
        dweight[d] += dx[d] * x[d] * inverse;
        dx[d] *= weight[d];
      }
      const T slope = dot(dx, x, D) / static_cast<T>(D) * inverse * inverse;
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) dx[d] = inverse * (dx[d] - x[d] * slope);
    }
  }
  add_blocks(partial, num_blocks, args.dweight, args.accumulate_weight);
}

HEADWAY_KERNEL(cpu, norm_rope_forward<float>);
HEADWAY_KERNEL(cpu, norm_rope_forward<double>);
HEADWAY_KERNEL(cpu, norm_rope_backward<float>);
HEADWAY_KERNEL(cpu, norm_rope_backward<double>);

}  // namespace
}  // namespace headway
