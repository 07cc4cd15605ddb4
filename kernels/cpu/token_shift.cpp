#include "kernels/ops/token_shift.h"

#include <algorithm>

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

template <class T>
void token_shift(const TokenShiftRows<T>& args, Stream&) {
  const int64_t B = args.x.size[0], length = args.x.size[1], C = args.x.size[2];
  const int64_t first = args.first_shifted, late = C - first, source = args.inverse ? 1 : -1;
#pragma omp parallel for if (B * length * C >= kSmallestParallel)
  for (int64_t row = 0; row < B * length; ++row) {
    const int64_t b = row / length, t = row % length;
    T* y = args.y.data + row * C;
    std::copy_n(args.x.data + row * C, first, y);
    if (t + source >= 0 && t + source < length)
      std::copy_n(args.x.data + (row + source) * C + first, late, y + first);
    else if (args.previous)
      std::copy_n(args.previous.data + b * C + first, late, y + first);
    else
      std::fill_n(y + first, late, T(0));
  }
}

HEADWAY_KERNEL(cpu, token_shift<float>);
HEADWAY_KERNEL(cpu, token_shift<double>);

}  // namespace
}  // namespace headway
