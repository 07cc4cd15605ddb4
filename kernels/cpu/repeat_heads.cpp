#include "kernels/ops/repeat_heads.h"

#include <algorithm>

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

template <class T>
void repeat_heads_forward(const RepeatHeadsForward<T>& args, Stream&) {
  const int64_t Dh = args.x.size[3], group = args.y.size[2] / args.x.size[2], heads = args.x.numel() / Dh;
#pragma omp parallel for if (args.y.numel() >= kSmallestParallel)
  for (int64_t k = 0; k < heads; ++k)
    for (int64_t g = 0; g < group; ++g)
      std::copy_n(args.x.data + k * Dh, Dh, args.y.data + (k * group + g) * Dh);
}

template <class T>
void repeat_heads_backward(const RepeatHeadsBackward<T>& args, Stream&) {
  const int64_t Dh = args.dx.size[3], group = args.dy.size[2] / args.dx.size[2], heads = args.dx.numel() / Dh;
#pragma omp parallel for if (args.dy.numel() >= kSmallestParallel)
  for (int64_t k = 0; k < heads; ++k) {
    T* const dx = args.dx.data + k * Dh;
    std::copy_n(args.dy.data + k * group * Dh, Dh, dx);
    for (int64_t g = 1; g < group; ++g) {
      const T* const dy = args.dy.data + (k * group + g) * Dh;
#pragma omp simd
      for (int64_t d = 0; d < Dh; ++d) dx[d] += dy[d];
    }
  }
}

HEADWAY_KERNEL(cpu, repeat_heads_forward<float>);
HEADWAY_KERNEL(cpu, repeat_heads_forward<double>);
HEADWAY_KERNEL(cpu, repeat_heads_backward<float>);
HEADWAY_KERNEL(cpu, repeat_heads_backward<double>);

}  // namespace
}  // namespace headway
