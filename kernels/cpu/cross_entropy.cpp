#include "kernels/ops/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace headway {
namespace {

template <class T>
void cross_entropy(const CrossEntropy<T>& args, Stream&) {
  const int64_t N = args.logits.size[0], V = args.logits.size[1];
#pragma omp parallel for if (N * V >= kSmallestParallel)
  for (int64_t n = 0; n < N; ++n) {
    T* row = args.logits.data + n * V;
    const int32_t target = args.targets(n);
    if (target < 0) {
      args.losses(n) = 0;
      if (args.write_gradient) std::fill_n(row, V, T(0));
      continue;
    }
    T largest = row[0];
#pragma omp simd reduction(max : largest)
    for (int64_t v = 0; v < V; ++v) largest = row[v] > largest ? row[v] : largest;
    const T target_logit = row[target];
    T sum = 0;
    if (args.write_gradient) {
#pragma omp simd reduction(+ : sum)
      for (int64_t v = 0; v < V; ++v) {
        row[v] = vector_exp(row[v] - largest);
        sum += row[v];
      }
      const T factor = static_cast<T>(args.scale) / sum;
#pragma omp simd
      for (int64_t v = 0; v < V; ++v) row[v] *= factor;
      row[target] -= static_cast<T>(args.scale);
    } else {
#pragma omp simd reduction(+ : sum)
      for (int64_t v = 0; v < V; ++v) sum += vector_exp(row[v] - largest);
    }
    args.losses(n) = std::log(sum) + largest - target_logit;
  }
}

template <class T>
void sum_rows(const SumRows<T>& args, Stream&) {
  double sum = 0;
  for (int64_t i = 0; i < args.values.size[0]; ++i) sum += static_cast<double>(args.values(i));
  args.sum(0) = static_cast<T>(args.scale * sum) + (args.accumulate ? args.sum(0) : T(0));
}

HEADWAY_KERNEL(cpu, cross_entropy<float>);
HEADWAY_KERNEL(cpu, cross_entropy<double>);
HEADWAY_KERNEL(cpu, sum_rows<float>);
HEADWAY_KERNEL(cpu, sum_rows<double>);

}  // namespace
}  // namespace headway
