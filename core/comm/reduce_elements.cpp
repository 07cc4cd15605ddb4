#include "core/comm/reduce_elements.h"

#include <algorithm>
#include <cstring>

namespace headway {
namespace {

// One block and one source fit the first-level cache together.
constexpr int64_t kBlockElements = 1024;
// Below this a team of threads costs more than it saves.
constexpr int64_t kParallelElements = int64_t{1} << 17;

template <class T, class Combine>
void reduce_range(std::span<void* const> sources, std::span<void* const> targets, int64_t lo, int64_t hi,
                  Combine combine) {
#pragma omp parallel for schedule(static) if (hi - lo >= kParallelElements)
  for (int64_t start = lo; start < hi; start += kBlockElements) {
    const int64_t count = std::min(kBlockElements, hi - start);
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    T block[kBlockElements];
    std::memcpy(block, static_cast<const T*>(sources[0]) + start, bytes);
    for (size_t rank = 1; rank < sources.size(); ++rank) {
      const T* const values = static_cast<const T*>(sources[rank]) + start;
      for (int64_t i = 0; i < count; ++i) block[i] = combine(block[i], values[i]);
    }
    for (void* const target : targets) std::memcpy(static_cast<T*>(target) + start, block, bytes);
  }
}

}  // namespace

void reduce_elements(std::span<void* const> sources, std::span<void* const> targets, int64_t lo, int64_t hi,
                     DType dtype, Reduce reduce) {
  dispatch<float, double, int32_t, int64_t>(dtype, "reduction", [&]<class T>() {
    switch (reduce) {
      case Reduce::sum:
        return reduce_range<T>(sources, targets, lo, hi, [](T a, T b) { return static_cast<T>(a + b); });
      case Reduce::max:
        return reduce_range<T>(sources, targets, lo, hi, [](T a, T b) { return a < b ? b : a; });
      case Reduce::min:
        return reduce_range<T>(sources, targets, lo, hi, [](T a, T b) { return b < a ? b : a; });
    }
  });
}

}  // namespace headway
