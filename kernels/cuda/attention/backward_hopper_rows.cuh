// What the Hopper backward needs of each query row, in one pass over dO and Y before it:
//   G_i = r_i dO_i, rounded     D_i = G_i.Y_i     LSE_i log2 e     dr_i = dO_i.Y_i
// It also writes the gradients that nobody will: dq of tiles of rows without a key, dk and dv of tiles of
// keys that no row sees; and sets the counters of backward_hopper.cuh to zero.
#pragma once

#include "kernels/cuda/attention/backward_hopper.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/rows.cuh"

namespace headway::cuda::hopper {

inline constexpr float kLog2E = 1.4426950408889634f;
/// Words from one counter to the next, each in a sector of memory of its own.
inline constexpr int kCounterStride = 8;

/// Arrays of the scratch memory: rows are padded to whole tiles with LSE = inf and D = 0, so that their
/// weights are zero.
struct BackwardScratch {
  float *log_sum_exp, *dots;  // [B,H,padded T]
  bf16* scaled_dout;          // [B,T,H,Dh], null without a row scale
  float* dq_sums;             // [B,H,tiles], a tile as it lies in registers
  unsigned* turns;            // [B,H,tiles]: how many key tiles have added to dq_sums
  unsigned* next_task;
};

/// Key tiles that some row sees; contiguous, as are the query tiles that see a key tile.
struct KeyTiles {
  int first, last;  // inclusive; none where first > last
};
__host__ __device__ inline KeyTiles key_tiles_of_rows(const TilePlan<WindowVariant>& plan, int first,
                                                      int last) {
  const IndexRange keys = plan.keys_of(first, last < plan.num_queries ? last : plan.num_queries - 1);
  if (keys.first >= keys.last) return {0, -1};
  return {keys.first / kBackwardKeys, (keys.last - 1) / kBackwardKeys};
}

inline constexpr int kBackwardRowLanes = 8, kBackwardRowThreads = 256, kBackwardRowsOfBlock = 128;

/// A block takes some rows of one head, 8 lanes a row: what has one number a row lies row by row in memory,
/// and several rows of a lane are under way at a time.
template <int D>
__global__ void __launch_bounds__(kBackwardRowThreads)
    backward_rows_kernel(Backward a, BackwardScratch scratch, int padded_rows, KeyTiles seen) {
  constexpr int kLanes = kBackwardRowLanes, kPack = 8, kPieces = D / (kLanes * kPack);
  constexpr int kRows = kBackwardRowsOfBlock, kAtOnce = kBackwardRowThreads / kLanes,
                kTurns = kRows / kAtOnce;
  constexpr int kQueries = kBackwardQueries<D>;
  __shared__ float dots[kRows], scaled_dots[kRows];
  const int H = static_cast<int>(a.q.size[2]), T = static_cast<int>(a.q.size[1]);
  const int Dh = static_cast<int>(a.q.size[3]);
  const int tiles = (padded_rows + kRows - 1) / kRows;
  const int64_t b = blockIdx.x / H / tiles, h = blockIdx.x % H;
  const int first = static_cast<int>(blockIdx.x / H % tiles) * kRows;
  const int lane = static_cast<int>(threadIdx.x) % kLanes, own = static_cast<int>(threadIdx.x) / kLanes;
  const Packed<bf16, kPack> zeros{};

  Packed<bf16, kPack> dout[kTurns][kPieces], y[kTurns][kPieces];
#pragma unroll
  for (int n = 0; n < kTurns; ++n)
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const int t = first + n * kAtOnce + own, d = (piece * kLanes + lane) * kPack;
      if (t >= T || d >= Dh) continue;
      dout[n][piece].read(&a.dout(b, t, h, d));
      y[n][piece].read(&a.y(b, t, h, d));
    }
#pragma unroll
  for (int n = 0; n < kTurns; ++n) {
    const int row = n * kAtOnce + own, t = first + row;
    const float scale = a.row_scale && t < T ? a.row_scale(b, h, t) : 1;
    float dot = 0, scaled_dot = 0;
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const int d = (piece * kLanes + lane) * kPack;
      float x[kPack], z[kPack];
      dout[n][piece].unpack(x);
      y[n][piece].unpack(z);
#pragma unroll
      for (int i = 0; i < kPack; ++i) dot += x[i] * z[i];
      if (!a.row_scale) continue;
#pragma unroll
      for (int i = 0; i < kPack; ++i) x[i] *= scale;
      dout[n][piece].pack(x);
      if (t < T && d < Dh) dout[n][piece].write(scratch.scaled_dout + ((b * T + t) * H + h) * Dh + d);
      dout[n][piece].unpack(x);
#pragma unroll
      for (int i = 0; i < kPack; ++i) scaled_dot += x[i] * z[i];
    }
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      dot += __shfl_xor_sync(0xffffffffu, dot, offset);
      scaled_dot += __shfl_xor_sync(0xffffffffu, scaled_dot, offset);
    }
    if (lane == 0) dots[row] = dot, scaled_dots[row] = a.row_scale ? scaled_dot : dot;
    if (t >= T) continue;
    const int tile = t / kQueries * kQueries;
    const KeyTiles keys = key_tiles_of_rows(a.plan, tile, tile + kQueries - 1);
    if (keys.first <= keys.last) continue;
    for (int d = lane * kPack; d < Dh; d += kLanes * kPack) zeros.write(&a.dq(b, t, h, d));
  }
  __syncthreads();
  const int row = static_cast<int>(threadIdx.x), t = first + row;
  if (row < kRows && t < padded_rows) {
    const int64_t head = b * H + h, at = head * padded_rows + t;
    const float log_sum_exp = t < T ? a.log_sum_exp(b, h, t) : -INFINITY;
    const bool is_empty = log_sum_exp == -INFINITY;
    scratch.log_sum_exp[at] = is_empty ? INFINITY : log_sum_exp * kLog2E;
    scratch.dots[at] = is_empty ? 0 : scaled_dots[row];
    if (t < T && a.drow_scale) a.drow_scale(b, h, t) = dots[row];
    if (t % kQueries == 0) scratch.turns[at / kQueries * kCounterStride] = 0;
    if (at == 0) *scratch.next_task = 0;
  }

  const int64_t K = a.k.size[2], Tk = a.k.size[1], num_tiles = (Tk + kBackwardKeys - 1) / kBackwardKeys;
  if (seen.first == 0 && seen.last == num_tiles - 1) return;
  const int64_t num_rows = a.k.size[0] * Tk * K, step = static_cast<int64_t>(gridDim.x) * kAtOnce;
  for (int64_t key = static_cast<int64_t>(blockIdx.x) * kAtOnce + own; key < num_rows; key += step) {
    const int64_t j = key / K % Tk, tile = j / kBackwardKeys;
    if (seen.first <= tile && tile <= seen.last) continue;
    for (int64_t d = lane * kPack; d < Dh; d += kLanes * kPack) {
      zeros.write(&a.dk(key / K / Tk, j, key % K, d));
      zeros.write(&a.dv(key / K / Tk, j, key % K, d));
    }
  }
}

}  // namespace headway::cuda::hopper
