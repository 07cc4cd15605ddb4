#include "kernels/ops/accumulate.h"

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

template <class To, class From>
void accumulate(const Accumulate<To, From>& args, Stream&) {
  const int64_t n = args.to.size[0];
  To* to = args.to.data;
  const From* from = args.from.data;
  if (args.overwrite) {
#pragma omp parallel for simd if (n >= kSmallestParallel)
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<To>(from[i]);
  } else {
#pragma omp parallel for simd if (n >= kSmallestParallel)
    for (int64_t i = 0; i < n; ++i) to[i] += static_cast<To>(from[i]);
  }
}

HEADWAY_KERNEL(cpu, accumulate<float, float>);
HEADWAY_KERNEL(cpu, accumulate<double, double>);

}  // namespace
}  // namespace headway
