#include "kernels/cuda/attention/query_rows.cuh"

#include "kernels/cuda/rows.cuh"

namespace headway::cuda::hopper {
namespace {

constexpr int kThreads = 256, kRowsOfBlock = 128, kLanes = 8, kPack = 8;

/// A block takes some rows of one head, 8 lanes a row.
__global__ void __launch_bounds__(kThreads)
    clear_unlisted_rows_kernel(View<const int32_t, 3> index, View<bf16, 4> x, View<bf16, 4> y,
                               View<float, 3> numbers, float number, int* counts) {
  __shared__ bool is_listed[kRowsOfBlock];
  const int T = static_cast<int>(x.size[1]), H = static_cast<int>(x.size[2]);
  const int tiles = (T + kRowsOfBlock - 1) / kRowsOfBlock, tile = static_cast<int>(blockIdx.x) % tiles;
  const int64_t head = blockIdx.x / static_cast<unsigned>(tiles), b = head / H, h = head % H;
  const int first = tile * kRowsOfBlock, last = min(first + kRowsOfBlock, T);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kRowsOfBlock) is_listed[thread] = false;
  __syncthreads();
  const int m = count_rows_below(index, b, h, first) + thread;
  if (thread < kRowsOfBlock && m < index.size[2])
    if (const int row = index(b, h, m); row >= 0 && row < last) is_listed[row - first] = true;
  if (tile == 0) {
    const int count = count_rows_below(index, b, h, INT_MAX);
    if (thread == 0) counts[head] = count;
  }
  __syncthreads();
  const Packed<bf16, kPack> zeros{};
  for (int t = first + thread / kLanes; t < last; t += kThreads / kLanes) {
    if (is_listed[t - first]) continue;
    for (int64_t d = thread % kLanes * kPack; d < x.size[3]; d += kLanes * kPack) {
      zeros.write(&x(b, t, h, d));
      if (y) zeros.write(&y(b, t, h, d));
    }
    if (numbers && thread % kLanes == 0) numbers(b, h, t) = number;
  }
}

}  // namespace

void clear_unlisted_rows(const View<const int32_t, 3>& index, const View<bf16, 4>& x, const View<bf16, 4>& y,
                         const View<float, 3>& numbers, float number, int* counts, Stream& stream) {
  const int64_t tiles = (x.size[1] + kRowsOfBlock - 1) / kRowsOfBlock;
  clear_unlisted_rows_kernel<<<static_cast<unsigned>(x.size[0] * x.size[2] * tiles), kThreads, 0,
                               stream.native()>>>(index, x, y, numbers, number, counts);
  check_launch("clearing rows that are not listed");
}

}  // namespace headway::cuda::hopper
