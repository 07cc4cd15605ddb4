#include "kernels/ops/segment_sums.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

template <class T>
void segment_sums(const SegmentSums<T>& args, Stream&) {
  const int64_t rows = args.y.size[0], H = args.y.size[1], E = args.y.size[2];
  const Zigzag zigzag{args.x.size[0]};
#pragma omp parallel for collapse(2) if (args.x.numel() >= kSmallestParallel)
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t h = 0; h < H; ++h) {
      const T factor = args.slope ? std::exp(-args.slope(h) * static_cast<T>(args.segment_length)) : T(1);
      T* const y = &args.y(row, h, 0);
      std::fill_n(y, E, T(0));
      const int64_t count = args.count(zigzag.segment(args.rank, row % 2));
      for (int64_t i = 0; i < count; ++i) {
        const T* const x = args.term(i, row / 2, h);
#pragma omp simd
        for (int64_t e = 0; e < E; ++e) y[e] = factor * y[e] + x[e];
      }
    }
}

HEADWAY_KERNEL(cpu, segment_sums<float>);
HEADWAY_KERNEL(cpu, segment_sums<double>);

}  // namespace
}  // namespace headway
