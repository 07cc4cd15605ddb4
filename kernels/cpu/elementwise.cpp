#include "kernels/ops/elementwise.h"

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

template <class T>
void add(const AddForward<T>& args, Stream&) {
  const int64_t n = args.y.size[0];
  const T *a = args.a.data, *b = args.b.data;
  T* y = args.y.data;
#pragma omp parallel for simd if (n >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
}

template <class T>
void dropout_mask(const DropoutMask<T>& args, Stream&) {
  const int64_t n = args.y.size[0];
  const T scale = static_cast<T>(1 / (1 - args.rate));
#pragma omp parallel for if (n >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i) {
    const bool kept = uniform(args.key, static_cast<uint64_t>(i)) >= static_cast<float>(args.rate);
    args.y(i) = kept ? args.x(i) * scale : T(0);
  }
}

HEADWAY_KERNEL(cpu, add<float>);
HEADWAY_KERNEL(cpu, add<double>);
HEADWAY_KERNEL(cpu, dropout_mask<float>);
HEADWAY_KERNEL(cpu, dropout_mask<double>);

}  // namespace
}  // namespace headway
