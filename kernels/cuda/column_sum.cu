#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/sum_rows.cuh"
#include "kernels/ops/matmul.h"

namespace headway {
namespace {
using namespace cuda;

template <int V, class T>
void sum_columns(const ColumnSum<T>& args, Stream& stream) {
  const int64_t N = args.x.size[1];
  const T* const x = args.x.data;
  sum_rows<V>(
      args.name, args.x.size[0], N,
      [x, N] __device__(int64_t m, int64_t n, float(&values)[V]) { load(x + m * N + n, values); },
      args.sum.data, args.accumulate, stream);
}

template <class T>
void column_sum(const ColumnSum<T>& args, Stream& stream) {
  constexpr int V = 16 / sizeof(T);
  if (args.x.size[1] % V == 0 && is_aligned(args.x.data, 16))
    sum_columns<V>(args, stream);
  else
    sum_columns<1>(args, stream);
}

HEADWAY_KERNEL(cuda, column_sum<float>);
HEADWAY_KERNEL(cuda, column_sum<bf16>);

}  // namespace
}  // namespace headway
