#include "kernels/cuda/sum_rows.cuh"
#include "kernels/ops/matmul.h"

namespace headway {
namespace {
using namespace cuda;

template <class T>
void column_sum(const ColumnSum<T>& args, Stream& stream) {
  const int64_t N = args.x.size[1];
  const T* const x = args.x.data;
  sum_rows(
      args.name, args.x.size[0], N,
      [x, N] __device__(int64_t m, int64_t n) { return to_float(x[m * N + n]); }, args.sum.data,
      args.accumulate, stream);
}

HEADWAY_KERNEL(cuda, column_sum<float>);
HEADWAY_KERNEL(cuda, column_sum<bf16>);

}  // namespace
}  // namespace headway
