// A block computes a tile of 64 x 64 of y, where a number is one chain of multiply-adds over k in fp32,
// whatever the tile's other rows are (rows behind the last are zero).
#include "kernels/ops/linear_by_rows.h"

#include "kernels/cuda/tile_product.cuh"

namespace headway {
namespace {
using namespace cuda;

template <class T>
__global__ void __launch_bounds__(kTileThreads)
    linear_by_rows_kernel(Matrix<T> x, Matrix<T> weight, const float* bias, T* y) {
  alignas(16) __shared__ float left[kPanel];
  alignas(16) __shared__ float right[kPanel];
  const int64_t m = static_cast<int64_t>(blockIdx.y) * kTile, n = static_cast<int64_t>(blockIdx.x) * kTile;
  Tile sums = {};
  add_product(sums, x.width, left, right, [&](int64_t k) {
    load_rows(left, x, m, k);
    load_rows(right, weight, n, k);
  });
  for (int r = 0; r < kOwn; ++r)
    for (int c = 0; c < kOwn; ++c) {
      const int64_t row = m + own_row() + r, column = n + own_column() + c;
      if (row < x.rows && column < weight.rows)
        y[row * weight.rows + column] = from_float<T>(sums[r][c] + (bias ? bias[column] : 0.0f));
    }
}

template <class T>
Matrix<T> matrix_of(const View<const T, 2>& rows) {
  const bool wide = is_aligned(rows.data, 4 * sizeof(T)) && rows.stride[0] % 4 == 0 && rows.size[1] % 4 == 0;
  return {rows.data, rows.stride[0], rows.size[0], rows.size[1], nullptr, wide};
}

template <class T>
void linear_by_rows(const LinearByRows<T>& args, Stream& stream) {
  if (args.y.numel() == 0) return;
  const dim3 grid(blocks_for(args.y.size[1], kTile), blocks_for(args.y.size[0], kTile));
  linear_by_rows_kernel<<<grid, kTileThreads, 0, stream.native()>>>(matrix_of(args.x), matrix_of(args.weight),
                                                                    args.bias.data, args.y.data);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, linear_by_rows<float>);
HEADWAY_KERNEL(cuda, linear_by_rows<bf16>);

}  // namespace
}  // namespace headway
