// What the Hopper backward needs of each query row, in one pass over dO and Y before it:
//   G_i = r_i dO_i, rounded     D_i = G_i.Y_i     LSE_i log2 e     dr_i = dO_i.Y_i
// It also writes the gradients that nobody will: dq of tiles of rows without a key, dk and dv of tiles of
// keys that no row sees; and sets the counters of backward_hopper.cuh to zero.
//
// Rows that are listed are packed, Q and G too, so that what follows reads tiles of them as if there were no
// others. A tile of packed rows stands for all positions from its first row up to the next tile's: the tiles
// of a head share out its positions as they do where every row is computed, so that every key tile has a
// query tile, if only one without a row.
#pragma once

#include "kernels/cuda/attention/backward_hopper.cuh"
#include "kernels/cuda/attention/query_rows.cuh"
#include "kernels/cuda/base_2.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/rows.cuh"

namespace headway::cuda::hopper {

/// Words from one counter to the next, each in a sector of memory of its own.
inline constexpr int kCounterStride = 8;

/// A tile of packed rows: the key tiles that its positions see, none where first_key_tile > last_key_tile;
/// and its first and its last row.
struct alignas(16) PackedTile {
  int first_key_tile, last_key_tile, first_row, last_row;
};

/// Arrays of the scratch memory: rows are padded to whole tiles with LSE = inf and D = 0, so that their
/// weights are zero.
struct BackwardScratch {
  float *log_sum_exp, *dots;  // [B,H,padded T]
  bf16* scaled_dout;          // [B,T,H,Dh], null without a row scale; [B,H,padded T,Dh] of packed rows
  float* dq_sums;             // [B,H,tiles], a tile as it lies in registers
  unsigned* turns;            // [B,H,tiles]: how many key tiles have added to dq_sums
  unsigned* next_task;
  // Of rows that are listed.
  int* counts;          // [B,H]
  bf16* packed_q;       // [B,H,padded T,Dh]
  int* packed_rows;     // [B,H,padded T]: which rows they are; T for none
  PackedTile* tiles;    // [B,H,tiles]
  int2* tiles_of_keys;  // [B,H,key tiles]: query tiles that see one, half-open
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

/// Zeros in dk and dv of key tiles that no row sees, by all threads of the grid.
__device__ inline void clear_unseen_keys(const Backward& a, const KeyTiles& seen) {
  constexpr int kLanes = kBackwardRowLanes, kPack = 8, kAtOnce = kBackwardRowThreads / kLanes;
  const int64_t K = a.k.size[2], Tk = a.k.size[1], Dh = a.k.size[3],
                num_tiles = (Tk + kBackwardKeys - 1) / kBackwardKeys;
  if (seen.first == 0 && seen.last == num_tiles - 1) return;
  const int lane = static_cast<int>(threadIdx.x) % kLanes, own = static_cast<int>(threadIdx.x) / kLanes;
  const Packed<bf16, kPack> zeros{};
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

  clear_unseen_keys(a, seen);
}

/// Which tiles of packed rows and of keys see each other, a thread for each of a head; and the counters.
template <int D>
__global__ void __launch_bounds__(kBackwardRowThreads)
    backward_tiles_kernel(Backward a, BackwardScratch scratch, int num_tiles, int num_key_tiles) {
  constexpr int kQueries = kBackwardQueries<D>;
  const int H = static_cast<int>(a.q.size[2]), T = a.plan.num_queries,
            of_head = max(num_tiles, num_key_tiles);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, head = index / of_head;
  const int tile = static_cast<int>(index % of_head);
  if (head >= a.q.size[0] * H) return;
  const PackedRows<kQueries> packed({a.row_index, scratch.counts}, head / H, head % H);
  if (index == 0) *scratch.next_task = 0;
  if (tile < packed.num_tiles) {
    const int slot = tile * kQueries, behind = slot + kQueries;
    const int first = tile == 0 ? 0 : packed.row(slot, 0),
              last = tile == packed.num_tiles - 1 ? T - 1 : packed.row(behind, 0) - 1;
    const KeyTiles keys = key_tiles_of_rows(a.plan, first, last);
    const bool is_empty = packed.count == 0;
    scratch.tiles[head * num_tiles + tile] = {keys.first, keys.last,
                                              is_empty ? 0 : packed.row(max(slot, packed.padding), 0),
                                              is_empty ? 0 : packed.row(behind - 1, 0)};
    scratch.turns[(head * num_tiles + tile) * kCounterStride] = 0;
  }
  if (tile < num_key_tiles) {
    const int key = tile * kBackwardKeys;
    const IndexRange rows = a.plan.rows_of(key, min(key + kBackwardKeys, a.plan.num_keys) - 1);
    const auto tile_of = [&](int row) { return max(packed.slot_of_last(row), 0) / kQueries; };
    scratch.tiles_of_keys[head * num_key_tiles + tile] = {tile_of(rows.first), tile_of(rows.last - 1) + 1};
  }
}

/// What backward_rows_kernel does, of listed rows, and packs them: a block takes some slots of a head.
template <int D>
__global__ void __launch_bounds__(kBackwardRowThreads)
    backward_packed_rows_kernel(Backward a, BackwardScratch scratch, int padded_rows, KeyTiles seen) {
  constexpr int kLanes = kBackwardRowLanes, kPack = 8, kPieces = D / (kLanes * kPack);
  constexpr int kSlots = kBackwardRowsOfBlock, kAtOnce = kBackwardRowThreads / kLanes,
                kTurns = kSlots / kAtOnce;
  constexpr int kQueries = kBackwardQueries<D>;
  clear_unseen_keys(a, seen);
  const int H = static_cast<int>(a.q.size[2]), T = a.plan.num_queries, Dh = static_cast<int>(a.q.size[3]);
  const int blocks = (padded_rows + kSlots - 1) / kSlots,
            first = static_cast<int>(blockIdx.x) % blocks * kSlots;
  const int64_t head = blockIdx.x / static_cast<unsigned>(blocks), b = head / H, h = head % H;
  const PackedRows<kQueries> packed({a.row_index, scratch.counts}, b, h);
  if (first >= packed.num_tiles * kQueries) return;
  const int lane = static_cast<int>(threadIdx.x) % kLanes,
            own = first + static_cast<int>(threadIdx.x) / kLanes;
  const int last_slot = packed.num_tiles * kQueries - 1;  // slots behind it are nobody's
  int rows[kTurns];
#pragma unroll
  for (int n = 0; n < kTurns; ++n) rows[n] = packed.row(min(own + n * kAtOnce, last_slot), T);
  const auto channel = [&](int piece) { return (piece * kLanes + lane) * kPack; };
  const auto is_here = [&](int n, int piece) { return rows[n] < T && channel(piece) < Dh; };

  Packed<bf16, kPack> dout[kTurns][kPieces], o[kTurns][kPieces];
#pragma unroll
  for (int n = 0; n < kTurns; ++n)
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      if (!is_here(n, piece)) continue;
      dout[n][piece].read(&a.dout(b, rows[n], h, channel(piece)));
      o[n][piece].read(&a.y(b, rows[n], h, channel(piece)));
    }
#pragma unroll
  for (int n = 0; n < kTurns; ++n) {
    const int slot = own + n * kAtOnce, t = rows[n];
    if (slot > last_slot) continue;
    const int64_t at = head * padded_rows + slot;
    const float scale = a.row_scale && t < T ? a.row_scale(b, h, t) : 1;
    float dot = 0, scaled_dot = 0;
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      float x[kPack], z[kPack];
      dout[n][piece].unpack(x);
      o[n][piece].unpack(z);
#pragma unroll
      for (int i = 0; i < kPack; ++i) dot += x[i] * z[i], x[i] *= scale;
      dout[n][piece].pack(x);
      if (channel(piece) < Dh) dout[n][piece].write(scratch.scaled_dout + at * Dh + channel(piece));
      dout[n][piece].unpack(x);
#pragma unroll
      for (int i = 0; i < kPack; ++i) scaled_dot += x[i] * z[i];
    }
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      dot += __shfl_xor_sync(0xffffffffu, dot, offset, kLanes);
      scaled_dot += __shfl_xor_sync(0xffffffffu, scaled_dot, offset, kLanes);
    }
    if (lane != 0) continue;
    const float log_sum_exp = t < T ? a.log_sum_exp(b, h, t) : -INFINITY;
    const bool is_empty = log_sum_exp == -INFINITY;
    scratch.log_sum_exp[at] = is_empty ? INFINITY : log_sum_exp * kLog2E;
    scratch.dots[at] = is_empty ? 0 : scaled_dot / scale;
    scratch.packed_rows[at] = t;
    if (t < T && a.drow_scale) a.drow_scale(b, h, t) = dot / scale;
  }
#pragma unroll
  for (int n = 0; n < kTurns; ++n)
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      o[n][piece] = {};
      if (is_here(n, piece)) o[n][piece].read(&a.q(b, rows[n], h, channel(piece)));
    }
#pragma unroll
  for (int n = 0; n < kTurns; ++n) {
    const int slot = own + n * kAtOnce;
    if (slot > last_slot) continue;
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      if (channel(piece) < Dh)
        o[n][piece].write(scratch.packed_q + (head * padded_rows + slot) * Dh + channel(piece));
    }
  }
}

/// dq of listed rows, which takes the place of their packed q: zero where the tile sees no key.
template <int D>
__global__ void __launch_bounds__(kBackwardRowThreads)
    backward_unpack_kernel(Backward a, BackwardScratch scratch, int padded_rows) {
  constexpr int kLanes = kBackwardRowLanes, kPack = 8, kQueries = kBackwardQueries<D>;
  const int H = static_cast<int>(a.q.size[2]), T = a.plan.num_queries;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, at = index / kLanes,
                head = at / padded_rows;
  const int slot = static_cast<int>(at % padded_rows);
  if (head >= a.q.size[0] * H) return;
  const PackedRows<kQueries> packed({a.row_index, scratch.counts}, head / H, head % H);
  const int t = slot < packed.num_tiles * kQueries ? packed.row(slot, T) : T;
  if (t == T) return;
  const PackedTile& tile = scratch.tiles[at / kQueries];
  for (int64_t d = index % kLanes * kPack; d < a.q.size[3]; d += kLanes * kPack) {
    Packed<bf16, kPack> dq{};
    if (tile.first_key_tile <= tile.last_key_tile) dq.read(scratch.packed_q + at * a.q.size[3] + d);
    dq.write(&a.dq(head / H, t, head % H, d));
  }
}

}  // namespace headway::cuda::hopper
