#include "kernels/ops/argmax.h"

namespace headway {
namespace {

template <class T>
void argmax_rows(const ArgmaxRows<T>& args, Stream&) {
  const int64_t V = args.x.size[1];
#pragma omp parallel for
  for (int64_t n = 0; n < args.x.size[0]; ++n) {
    const T* const row = args.x.data + n * V;
    int64_t best = 0;
    bool has_nan = row[0] != row[0];
    for (int64_t v = 1; v < V; ++v) {
      has_nan |= row[v] != row[v];
      if (row[v] > row[best]) best = v;
    }
    args.column(n) = has_nan ? -1 : static_cast<int32_t>(best);
  }
}

HEADWAY_KERNEL(cpu, argmax_rows<float>);
HEADWAY_KERNEL(cpu, argmax_rows<double>);

}  // namespace
}  // namespace headway
