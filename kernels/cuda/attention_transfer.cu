// Tiles of 64 rows and 64 keys of both weight matrices, computed again by each kernel: what a row sums to
// (stats_kernel), its divergence and the part of it above the floor (rows_kernel), and the gradients, where a
// tile of dw is multiplied with the features of keys or queries. O(T^2) time, O(T) memory.
#include "kernels/ops/attention_transfer.h"

#include <cmath>

#include "kernels/cuda/tile_product.cuh"

namespace headway {
namespace {
using namespace cuda;

/// What a row's weights add up to, [B,H,T] each.
struct Stats {
  float* log_sum_exp;  // of the scaled scores
  float* weights;      // n
  float* above_floor;  // c; backward only
};

/// One head of one sequence.
template <class T>
struct Head {
  const AttentionTransferInputs<T>& in;
  int64_t b, h, length;
  float scale;

  __device__ Head(const AttentionTransferInputs<T>& in_)
      : in(in_), b(blockIdx.z), h(blockIdx.y), length(in.q.size[1]), scale(static_cast<float>(in.scale)) {}
  __device__ Matrix<T> rows(const View<const T, 4>& x, int64_t first) const {
    const int64_t width = x.size[3], stride = x.size[2] * width;
    return {x.data + ((b * length + first) * x.size[2] + h) * width,
            stride,
            min(static_cast<int64_t>(kTile), length - first),
            width,
            nullptr,
            width % 4 == 0 && reinterpret_cast<uintptr_t>(x.data) % (4 * sizeof(T)) == 0};
  }
  /// Of row t among those of Stats.
  __device__ int64_t stat(int64_t t) const { return (b * in.q.size[2] + h) * length + t; }

  /// The thread's own part of scaled scores and weights of the rows and keys from i and j on.
  __device__ void compute(int64_t i, int64_t j, float* left, float* right, Tile& scores,
                          Tile& weights) const {
    const Matrix<T> q = rows(in.q, i), k = rows(in.k, j), fq = rows(in.fq, i), fk = rows(in.fk, j);
#pragma unroll
    for (int r = 0; r < kOwn; ++r)
#pragma unroll
      for (int c = 0; c < kOwn; ++c) scores[r][c] = weights[r][c] = 0;
    add_product(scores, q.width, left, right, [&](int64_t d) {
      load_rows(left, q, 0, d);
      load_rows(right, k, 0, d);
    });
    add_product(weights, fq.width, left, right, [&](int64_t f) {
      load_rows(left, fq, 0, f);
      load_rows(right, fk, 0, f);
    });
#pragma unroll
    for (int r = 0; r < kOwn; ++r)
#pragma unroll
      for (int c = 0; c < kOwn; ++c) scores[r][c] *= scale;
  }
  __device__ bool sees(int64_t t, int64_t key) const { return t < length && key <= t; }
};

/// Over the threads that hold one row, in all of them.
__device__ inline float row_sum(float x) {
#pragma unroll
  for (int offset = kPerRow / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ inline float row_max(float x) {
#pragma unroll
  for (int offset = kPerRow / 2; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

template <class T>
__global__ void __launch_bounds__(kTileThreads) stats_kernel(AttentionTransferInputs<T> in, Stats stats) {
  alignas(16) __shared__ float left[kPanel], right[kPanel];
  const Head<T> head(in);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTile;
  float largest[kOwn], sum[kOwn] = {}, total[kOwn] = {};
  for (float& x : largest) x = -INFINITY;
  for (int64_t keys = 0; keys <= first; keys += kTile) {
    Tile scores, weights;
    head.compute(first, keys, left, right, scores, weights);
    for (int r = 0; r < kOwn; ++r) {
      const int64_t t = first + own_row() + r;
      float here = -INFINITY, weight = 0, exponentials = 0;
      for (int c = 0; c < kOwn; ++c)
        if (head.sees(t, keys + own_column() + c)) here = fmaxf(here, scores[r][c]), weight += weights[r][c];
      const float next = fmaxf(largest[r], row_max(here));
      for (int c = 0; c < kOwn; ++c)
        if (head.sees(t, keys + own_column() + c)) exponentials += expf(scores[r][c] - next);
      sum[r] = sum[r] * (largest[r] == next ? 1.0f : expf(largest[r] - next)) + row_sum(exponentials);
      total[r] += row_sum(weight);
      largest[r] = next;
    }
  }
  for (int r = 0; r < kOwn; ++r) {
    const int64_t t = first + own_row() + r;
    if (own_column() != 0 || t >= head.length) continue;
    stats.log_sum_exp[head.stat(t)] = largest[r] + logf(sum[r]);
    stats.weights[head.stat(t)] = total[r];
  }
}

__device__ inline bool is_above_floor(float share) { return share >= static_cast<float>(kTransferFloor); }

/// divergence [B,H,T] or null; stats.above_floor or null.
template <class T>
__global__ void __launch_bounds__(kTileThreads)
    rows_kernel(AttentionTransferInputs<T> in, Stats stats, float* divergence) {
  alignas(16) __shared__ float left[kPanel], right[kPanel];
  const Head<T> head(in);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTile;
  float sums[kOwn] = {}, above[kOwn] = {};
  for (int64_t keys = 0; keys <= first; keys += kTile) {
    Tile scores, weights;
    head.compute(first, keys, left, right, scores, weights);
    for (int r = 0; r < kOwn; ++r)
      for (int c = 0; c < kOwn; ++c) {
        const int64_t t = first + own_row() + r;
        if (!head.sees(t, keys + own_column() + c)) continue;
        const float log_a = scores[r][c] - stats.log_sum_exp[head.stat(t)], a = expf(log_a);
        const float share = weights[r][c] / stats.weights[head.stat(t)];
        constexpr float kFloor = static_cast<float>(kTransferFloor);
        sums[r] += a * (log_a - logf(share < kFloor ? kFloor : share));
        if (is_above_floor(share)) above[r] += a;
      }
  }
  for (int r = 0; r < kOwn; ++r) {
    const int64_t t = first + own_row() + r;
    const float sum = row_sum(sums[r]), mass = row_sum(above[r]);
    if (own_column() != 0 || t >= head.length) continue;
    if (divergence) divergence[head.stat(t)] = sum;
    if (stats.above_floor) stats.above_floor[head.stat(t)] = mass;
  }
}

__global__ void mean_kernel(const float* x, int64_t n, float* mean) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += static_cast<double>(x[i]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) *mean = static_cast<float>(sum / static_cast<double>(n));
}

/// dfq of 64 queries, or dfk of 64 keys; 64 of their features.
template <class T, bool OfKeys>
__global__ void __launch_bounds__(kTileThreads) features_kernel(AttentionTransferBackward<T> a, Stats stats) {
  alignas(16) __shared__ float left[kPanel], right[kPanel], pairs[kTile * kStride];
  const Head<T> head(a.in);
  const int64_t F = a.in.fq.size[3], tiles = (F + kTile - 1) / kTile;
  const int64_t own = static_cast<int64_t>(blockIdx.x) / tiles * kTile, f_first = blockIdx.x % tiles * kTile;
  const float gradient =
      a.dloss.data[0] / static_cast<float>(a.in.q.size[0] * a.in.q.size[1] * a.in.q.size[2]);
  Tile sums = {};
  for (int64_t other = OfKeys ? own : 0; OfKeys ? other < head.length : other <= own; other += kTile) {
    const int64_t i = OfKeys ? other : own, j = OfKeys ? own : other;
    Tile scores, weights;
    head.compute(i, j, left, right, scores, weights);
    __syncthreads();  // the pairs of the tile before have been read
#pragma unroll
    for (int r = 0; r < kOwn; ++r)
#pragma unroll
      for (int c = 0; c < kOwn; ++c) {
        const int64_t t = i + own_row() + r;
        float dw = 0;
        if (head.sees(t, j + own_column() + c)) {
          const int64_t row = head.stat(t);
          const float n = stats.weights[row], weight = weights[r][c];
          const float share = is_above_floor(weight / n) ? expf(scores[r][c] - stats.log_sum_exp[row]) : 0.0f;
          dw = gradient * (stats.above_floor[row] / n - (share > 0 ? share / weight : 0.0f));
        }
        const int row = own_row() + r, column = own_column() + c;
        pairs[OfKeys ? row * kStride + column : column * kStride + row] = dw;
      }
    const Matrix<T> features = head.rows(OfKeys ? a.in.fq : a.in.fk, other);
    for (int64_t k = 0; k < features.rows; k += kDepth) {
      __syncthreads();
      load_columns(right, features, f_first, k);
      __syncthreads();
      add_panel(sums, pairs + k * kStride, right);
    }
  }
  const View<T, 4>& to = OfKeys ? a.dfk : a.dfq;
#pragma unroll
  for (int r = 0; r < kOwn; ++r)
#pragma unroll
    for (int c = 0; c < kOwn; ++c)
      if (const int64_t t = own + own_row() + r, f = f_first + own_column() + c; t < head.length && f < F)
        to(head.b, t, head.h, f) = from_float<T>(sums[r][c]);
}

template <class T>
dim3 grid_of(const AttentionTransferInputs<T>& in, int64_t tiles) {
  const auto& q = in.q.size;
  return dim3(static_cast<unsigned>((q[1] + kTile - 1) / kTile * tiles), static_cast<unsigned>(q[2]),
              static_cast<unsigned>(q[0]));
}

template <class T>
Stats stats_in_scratch(const AttentionTransferInputs<T>& in, bool backward, Stream& stream) {
  const int64_t rows = in.q.size[0] * in.q.size[1] * in.q.size[2];
  auto* const memory =
      reinterpret_cast<float*>(stream.scratch(static_cast<size_t>(3 * rows) * sizeof(float)).data());
  return {memory, memory + rows, backward ? memory + 2 * rows : nullptr};
}

template <class T>
void attention_transfer_forward(const AttentionTransferForward<T>& args, Stream& stream) {
  const int64_t rows = args.divergence.numel();
  const Stats stats = stats_in_scratch(args.in, false, stream);
  if (rows > 0) {
    const dim3 grid = grid_of(args.in, 1);
    stats_kernel<<<grid, kTileThreads, 0, stream.native()>>>(args.in, stats);
    rows_kernel<<<grid, kTileThreads, 0, stream.native()>>>(args.in, stats, args.divergence.data);
  }
  mean_kernel<<<1, 1024, 0, stream.native()>>>(args.divergence.data, rows, args.loss.data);
  check_launch(args.name);
}

template <class T>
void attention_transfer_backward(const AttentionTransferBackward<T>& args, Stream& stream) {
  if (args.dfq.numel() == 0) return;
  const Stats stats = stats_in_scratch(args.in, true, stream);
  const dim3 rows = grid_of(args.in, 1),
             features = grid_of(args.in, (args.in.fq.size[3] + kTile - 1) / kTile);
  float* const no_divergence = nullptr;
  stats_kernel<<<rows, kTileThreads, 0, stream.native()>>>(args.in, stats);
  rows_kernel<<<rows, kTileThreads, 0, stream.native()>>>(args.in, stats, no_divergence);
  features_kernel<T, false><<<features, kTileThreads, 0, stream.native()>>>(args, stats);
  features_kernel<T, true><<<features, kTileThreads, 0, stream.native()>>>(args, stats);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, attention_transfer_forward<float>);
HEADWAY_KERNEL(cuda, attention_transfer_forward<bf16>);
HEADWAY_KERNEL(cuda, attention_transfer_backward<float>);
HEADWAY_KERNEL(cuda, attention_transfer_backward<bf16>);

}  // namespace
}  // namespace headway
