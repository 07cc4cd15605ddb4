#include "kernels/ops/embedding.h"

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 256;

constexpr int kRows = 4;

// Threads lie (columns, rows). A thread copies V columns of kRows rows at a time: a copy waits for its id
// first, so several have to be under way.
template <class T, int V>
__global__ void __launch_bounds__(kThreads) embedding_forward_kernel(EmbeddingForward<T> a) {
  using P = Pack<T, V>;
  const int64_t N = a.y.size[0], D = a.y.size[1];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.y * kRows + threadIdx.y;
  int id[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r)
    if (const int64_t n = first + r * blockDim.y; n < N) id[r] = a.ids.data[n];
  for (int64_t d = threadIdx.x * V; d < D; d += blockDim.x * V) {
    P packs[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      if (first + r * blockDim.y < N) packs[r] = *reinterpret_cast<const P*>(a.weight.data + id[r] * D + d);
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      if (const int64_t n = first + r * blockDim.y; n < N)
        *reinterpret_cast<P*>(a.y.data + n * D + d) = packs[r];
  }
}

template <class T>
void embedding_forward(const EmbeddingForward<T>& args, Stream& stream) {
  constexpr int V = 16 / sizeof(T);
  if (args.y.numel() == 0) return;
  const int64_t N = args.y.size[0], D = args.y.size[1];
  const bool wide = D % V == 0 && is_aligned(args.y.data, 16) && is_aligned(args.weight.data, 16);
  const auto columns = static_cast<unsigned>(std::min<int64_t>(wide ? D / V : D, kThreads));
  const unsigned rows = kThreads / columns;
  const auto kernel = wide ? embedding_forward_kernel<T, V> : embedding_forward_kernel<T, 1>;
  kernel<<<blocks_for(N, rows * kRows), dim3(columns, rows), 0, stream.native()>>>(args);
  check_launch(args.name);
}

// The gradient: the positions of each id are collected (in whatever order the threads come), put in order,
// and their rows summed in that order, so the bits do not depend on the order of the threads.

__global__ void count_ids_kernel(const int32_t* ids, int64_t n, int* counts) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd(&counts[ids[i]], 1);
}

/// starts[v] = sum of counts before v; one block.
__global__ void __launch_bounds__(1024) scan_counts_kernel(const int* counts, int64_t V, int* starts) {
  __shared__ int of_warp[kWarp];
  __shared__ int carry;
  if (threadIdx.x == 0) carry = 0;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int64_t first = 0; first < V; first += blockDim.x) {
    const int64_t v = first + threadIdx.x;
    const int count = v < V ? counts[v] : 0;
    int sum = count;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += other;
    }
    __syncthreads();  // carry and of_warp of the round before have been read
    if (lane == kWarp - 1) of_warp[warp] = sum;
    __syncthreads();
    int before = carry;
    for (int w = 0; w < warp; ++w) before += of_warp[w];
    if (v < V) starts[v] = before + sum - count;
    __syncthreads();
    if (threadIdx.x == blockDim.x - 1) carry = before + sum;
  }
}

__global__ void place_ids_kernel(const int32_t* ids, int64_t n, const int* starts, int* placed,
                                 int* positions) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) positions[starts[ids[i]] + atomicAdd(&placed[ids[i]], 1)] = static_cast<int>(i);
}

/// ordered = positions, ascending within each id: the rank of a position is the number of smaller ones.
__global__ void order_positions_kernel(const int32_t* ids, int64_t n, const int* starts, const int* counts,
                                       const int* positions, int* ordered) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int id = ids[i], start = starts[id], count = counts[id];
  int rank = 0;
  for (int j = 0; j < count; ++j) rank += positions[start + j] < i;
  ordered[start + rank] = static_cast<int>(i);
}

template <class T>
__global__ void sum_positions_kernel(EmbeddingBackward<T> a, const int* starts, const int* counts,
                                     const int* ordered) {
  const int64_t id = blockIdx.x, D = a.dy.size[1];
  const int start = starts[id], count = counts[id];
  if (count == 0 && a.accumulate) return;
  for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
    float sum = 0;
    for (int j = 0; j < count; ++j) sum += to_float(a.dy.data[ordered[start + j] * D + d]);
    float& to = a.dweight.data[id * D + d];
    to = a.accumulate ? to + sum : sum;
  }
}

template <class T>
void embedding_backward(const EmbeddingBackward<T>& args, Stream& stream) {
  const int64_t N = args.ids.size[0], V = args.dweight.size[0];
  if (V == 0) return;
  auto* const counts =
      reinterpret_cast<int*>(stream.scratch(static_cast<size_t>(3 * V + 2 * N) * sizeof(int)).data());
  int *const placed = counts + V, *const starts = placed + V, *const positions = starts + V,
             *const ordered = positions + N;
  check_cuda(cudaMemsetAsync(counts, 0, static_cast<size_t>(2 * V) * sizeof(int), stream.native()),
             args.name);
  const unsigned blocks = blocks_for(N, kThreads);
  if (N > 0) count_ids_kernel<<<blocks, kThreads, 0, stream.native()>>>(args.ids.data, N, counts);
  scan_counts_kernel<<<1, 1024, 0, stream.native()>>>(counts, V, starts);
  if (N > 0) {
    place_ids_kernel<<<blocks, kThreads, 0, stream.native()>>>(args.ids.data, N, starts, placed, positions);
    order_positions_kernel<<<blocks, kThreads, 0, stream.native()>>>(args.ids.data, N, starts, counts,
                                                                     positions, ordered);
  }
  sum_positions_kernel<<<static_cast<unsigned>(V), kThreads, 0, stream.native()>>>(args, starts, counts,
                                                                                   ordered);
  check_launch(args.name);
}

template <class T>
__global__ void add_positions_forward_kernel(AddPositionsForward<T> a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.x.numel()) return;
  const int64_t D = a.x.size[2], position = a.positions.of(i / D % a.x.size[1]);
  a.y.data[i] = from_float<T>(to_float(a.x.data[i]) + to_float(a.weight.data[position * D + i % D]));
}

template <class T>
void add_positions_forward(const AddPositionsForward<T>& args, Stream& stream) {
  if (args.x.numel() == 0) return;
  add_positions_forward_kernel<<<blocks_for(args.x.numel(), kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
__global__ void add_positions_backward_kernel(AddPositionsBackward<T> a) {
  const int64_t D = a.dweight.size[1], T_ = a.dy.size[1];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.dweight.numel()) return;
  const int64_t t = a.positions.token_at(i / D);
  float sum = 0;
  for (int64_t b = 0; b < a.dy.size[0] && t >= 0 && t < T_; ++b)
    sum += to_float(a.dy.data[(b * T_ + t) * D + i % D]);
  a.dweight.data[i] = a.accumulate ? a.dweight.data[i] + sum : sum;
}

template <class T>
void add_positions_backward(const AddPositionsBackward<T>& args, Stream& stream) {
  if (args.dweight.numel() == 0) return;
  add_positions_backward_kernel<<<blocks_for(args.dweight.numel(), kThreads), kThreads, 0, stream.native()>>>(
      args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, embedding_forward<float>);
HEADWAY_KERNEL(cuda, embedding_forward<bf16>);
HEADWAY_KERNEL(cuda, embedding_backward<float>);
HEADWAY_KERNEL(cuda, embedding_backward<bf16>);
HEADWAY_KERNEL(cuda, add_positions_forward<float>);
HEADWAY_KERNEL(cuda, add_positions_forward<bf16>);
HEADWAY_KERNEL(cuda, add_positions_backward<float>);
HEADWAY_KERNEL(cuda, add_positions_backward<bf16>);

}  // namespace
}  // namespace headway
