#include "kernels/ops/rope.h"

#include <algorithm>

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

template <class T>
void rope_rotate(const RopeRotate<T>& args, Stream&) {
  const int64_t B = args.x.size[0], length = args.x.size[1], H = args.x.size[2], Dh = args.x.size[3];
  const int64_t half = args.table.size[1];
  const T direction = args.inverse ? T(-1) : T(1);
#pragma omp parallel for if (B * length * H * Dh >= kSmallestParallel)
  for (int64_t row = 0; row < B * length; ++row) {
    const T* angle = args.table.data + row % length * half * 2;
    for (int64_t h = 0; h < H; ++h) {
      const T* x = args.x.data + (row * H + h) * Dh;
      T* y = args.y.data + (row * H + h) * Dh;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const T cosine = angle[2 * i], sine = direction * angle[2 * i + 1], a = x[i], b = x[i + half];
        y[i] = a * cosine - b * sine;
        y[i + half] = b * cosine + a * sine;
      }
      std::copy(x + 2 * half, x + Dh, y + 2 * half);
    }
  }
}

HEADWAY_KERNEL(cpu, rope_rotate<float>);
HEADWAY_KERNEL(cpu, rope_rotate<double>);

}  // namespace
}  // namespace headway
