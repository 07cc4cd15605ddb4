#include "kernels/ops/elementwise.h"

#include <algorithm>

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
void scale(const ScaleForward<T>& args, Stream&) {
  const int64_t n = args.y.size[0];
  const T factor = static_cast<T>(args.factor);
  const T* x = args.x.data;
  T* y = args.y.data;
#pragma omp parallel for simd if (n >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * factor;
}

// A Philox block serves four elements, so the loop runs over the blocks that the elements lie in.
template <class T>
void dropout_mask(const DropoutMask<T>& args, Stream&) {
  const int64_t n = args.y.size[0], first = static_cast<int64_t>(args.key.first_element);
  const T scale = static_cast<T>(1 / (1 - args.rate));
  const auto rate = static_cast<float>(args.rate);
  const T* x = args.x.data;
  T* y = args.y.data;
#pragma omp parallel for if (n >= kSmallestParallel)
  for (int64_t block = first / 4; block < (first + n + 3) / 4; ++block) {
    const PhiloxBlock random = random_block(args.key, static_cast<uint64_t>(block));
    const int64_t begin = std::max(first, block * 4), end = std::min(first + n, block * 4 + 4);
    for (int64_t i = begin; i < end; ++i)
      y[i - first] = uniform_from(random.word[i % 4]) >= rate ? x[i - first] * scale : T(0);
  }
}

HEADWAY_KERNEL(cpu, add<float>);
HEADWAY_KERNEL(cpu, add<double>);
HEADWAY_KERNEL(cpu, scale<float>);
HEADWAY_KERNEL(cpu, scale<double>);
HEADWAY_KERNEL(cpu, dropout_mask<float>);
HEADWAY_KERNEL(cpu, dropout_mask<double>);

}  // namespace
}  // namespace headway
