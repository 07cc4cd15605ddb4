#include "kernels/ops/rope.h"

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/turn.h"

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
      turn(x, angle, half, Dh, direction, y);
    }
  }
}

HEADWAY_KERNEL(cpu, rope_rotate<float>);
HEADWAY_KERNEL(cpu, rope_rotate<double>);

}  // namespace
}  // namespace headway
