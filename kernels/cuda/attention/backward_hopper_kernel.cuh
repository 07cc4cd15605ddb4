// Softmax attention's backward in bf16 for Hopper: one kernel, five products (equations in
// kernels/attention/softmax.h; the structure is FlashAttention-3's, arXiv 2407.08608).
//
// A task is a tile of 128 keys of one key/value head, which stay in shared memory while the query tiles of
// a slice of its query heads go by, those that see them. Two warpgroups own 64 keys each and hold S^T = K Q^T
// and dP^T = V dO^T, so that P^T and dS^T, rounded, are left operands of dV += P^T dO and dK += dS^T Q in
// registers. dS also goes through shared memory, for dQ = dS K. A third warpgroup has a warp that loads, and
// warps that store.
//
// Bits of dQ repeat because a query tile's key tiles add to its fp32 sums in a fixed order, from the last key
// tile to the first: a counter per query tile says whose turn it is (arXiv 2601.21824 compares such orders).
// The first to come stores, so that nothing is zeroed; the last reads the sums back, adds its own, rounds and
// writes dQ. Two staging buffers with a store warp each let products go on while one waits for its turn.
//
// No block ever waits for one that has not begun, whatever number of blocks run at a time: tasks are handed
// out by a counter, in the order of a list in which a head's key tiles descend, and a block works off its
// tasks in that order. The turn of a task is due once tasks before it in the list have added. So of the tasks
// that are not done, the first of the list has been taken by a block that runs, and waits for nobody: it
// ends, and with it, one by one, all others.
//
// The list goes section by section: the sums of a section's heads should stay in the L2 cache, which fp32
// sums larger than it leave at half the speed.
//
// 168 registers at launch, 24 for loads and stores and 240 for products; one block of 384 threads a
// multiprocessor with 226 KiB of shared memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/cuda/attention/backward_hopper_rows.cuh"
#include "kernels/cuda/attention/backward_hopper_slices.cuh"
#include "kernels/cuda/base_2.cuh"
#include "kernels/cuda/tile/mbarrier.cuh"
#include "kernels/cuda/tile/products.cuh"
#include "kernels/cuda/tile/tma.cuh"

namespace headway::cuda::hopper {

/// A key tile, its sequence and slice of query heads, and the query tiles that see it; half-open, never none.
/// The task after the last has key_tile = -1.
struct BackwardTask {
  int key_tile, batch, slice, first, last;
};

template <class R>
struct BackwardParams {
  using Rows = R;
  CUtensorMap q, dout, k, v, dq, dk, dv;
  BackwardScratch scratch;
  TilePlan<WindowVariant> plan;
  KeyTiles seen;  // key tiles that are tasks
  // A slice: query heads of a sequence that share keys and whose dK and dV are one.
  int batch, slices, heads_per_slice, slices_per_key_head;
  int slices_per_section;  // of all sequences
  int num_query_tiles;
  float scale;

  template <int kQueries>
  __device__ BackwardTask task(int index) const {
    const int tiles = seen.last - seen.first + 1, all_slices = batch * slices;
    if (index >= all_slices * tiles) return {-1, 0, 0, 0, 0};
    const int section = index / (slices_per_section * tiles), first_slice = section * slices_per_section;
    const int section_slices = min(slices_per_section, all_slices - first_slice);
    const int in_section = index - first_slice * tiles;
    const int key_tile = seen.last - in_section / section_slices,
              slice = first_slice + in_section % section_slices;
    if constexpr (R::kAreListed) {  // a head is a slice
      const int2 tiles =
          scratch.tiles_of_keys[slice * ((plan.num_keys + kBackwardKeys - 1) / kBackwardKeys) + key_tile];
      return {key_tile, slice / slices, slice % slices, tiles.x, tiles.y};
    }
    const IndexRange rows = plan.rows_of(key_tile * kBackwardKeys,
                                         min(key_tile * kBackwardKeys + kBackwardKeys, plan.num_keys) - 1);
    return {key_tile, slice / slices, slice % slices, rows.first / kQueries,
            (rows.last + kQueries - 1) / kQueries};
  }
  /// Of a query head's tile among all.
  __device__ unsigned tile_index(int b, int h, int query_tile) const {
    return static_cast<unsigned>((b * slices * heads_per_slice + h) * num_query_tiles + query_tile);
  }
  /// packed: a tile_index() of listed rows.
  template <int kQueries>
  __device__ KeyTiles key_tiles(int query_tile, unsigned packed) const {
    if constexpr (R::kAreListed) {
      const int2 keys = *reinterpret_cast<const int2*>(scratch.tiles + packed);
      return {keys.x, keys.y};
    }
    return key_tiles_of_rows(plan, query_tile * kQueries, query_tile * kQueries + kQueries - 1);
  }
};

inline constexpr int kProductThreads = 2 * kWarpgroup, kProductWarps = kProductThreads / kWarp;

template <int D, class R>
struct alignas(1024) BackwardShared {
  static constexpr int kQueries = kBackwardQueries<D>;
  // Rows of 64 channels, then of the next 64; swizzled.
  uint16_t k[kBackwardKeys * D], v[kBackwardKeys * D];
  uint16_t q[2][kQueries * D], dout[2][kQueries * D];
  uint16_t ds[2][kBackwardKeys * kQueries];  // rows are keys
  float sums[2][kQueries * D];               // of dQ, a warp's 4 KiB after another's
  float log_sum_exp[2][kQueries], dots[2][kQueries];
  std::conditional_t<R::kAreListed, PackedTile[2], AllRows> tiles;  // of queries, where rows are listed
  BackwardTask tasks[2];
  // Full and empty: of what is loaded, with its rows' numbers; of the tasks; of the staging buffers of dQ.
  uint64_t k_full, k_empty, v_full, v_empty;
  uint64_t q_full[2], q_empty[2], dout_full[2], dout_empty[2];
  uint64_t task_full[2], task_empty[2], sums_full[2], sums_empty[2];
  uint64_t dv_full, dv_empty;  // of ds where dV leaves through it
};
template <int D, class R>
inline constexpr int kBackwardSharedBytes = static_cast<int>(sizeof(BackwardShared<D, R>));
static_assert(kBackwardSharedBytes<64, ListedRows> <= 227 * 1024 &&
              kBackwardSharedBytes<128, ListedRows> <= 227 * 1024);

#ifdef HEADWAY_WGMMA

/// Whether dV leaves through the buffers of dS, and a store warp of its own, rather than with dK through
/// those of dQ; and the next task is taken only when its first load can be made, rather than with the last
/// load of the present. Both pay where a step is short.
template <int D>
inline constexpr bool kHasValueStores = D == 128;

/// Bytes of its parts.
template <int D, class R>
struct BackwardBlock {
  using Shared = BackwardShared<D, R>;
  static constexpr int kQueries = Shared::kQueries;
  static constexpr int kKeyBytes = sizeof(Shared::k), kQueryBytes = sizeof(Shared::q) / 2,
                       kSlopeBytes = sizeof(Shared::ds) / 2, kSumBytes = sizeof(Shared::sums) / 2,
                       kRowBytes = kQueries * static_cast<int>(sizeof(float));
};

/// Of the n-th use of a pair of barriers.
__device__ inline unsigned parity_of(unsigned use) { return use >> 1 & 1; }

// The threads that load and store have few registers: what they know of a task stays in shared memory.

/// The thread that loads, and hands tasks to all others.
template <int D, class R>
__device__ __forceinline__ void load_tasks(const BackwardParams<R>& p, BackwardShared<D, R>& shared) {
  using Block = BackwardBlock<D, R>;
  constexpr int kQueries = Block::kQueries, kBlocks = D / 64;
  unsigned step = 0;
  int index = static_cast<int>(atomicAdd(p.scratch.next_task, 1u));
  for (unsigned i = 0;; ++i) {
    BackwardTask& task = shared.tasks[i & 1];
    mbarrier_wait(shared_address(&shared.task_empty[i & 1]), parity_of(i) ^ 1);
    task = p.template task<kQueries>(index);
    mbarrier_arrive(shared_address(&shared.task_full[i & 1]));
    if (task.key_tile < 0) break;
    bool is_first = true;
    for (int g = 0; g < p.heads_per_slice; ++g)
      for (int query = task.first; query < task.last; ++query, ++step) {
        const unsigned stage = step & 1, parity = parity_of(step) ^ 1;
        const auto load = [&](const CUtensorMap& map, uint16_t* to, const float* rows, float* rows_to,
                              uint64_t& full, uint64_t& empty, unsigned more_bytes) {
          mbarrier_wait(shared_address(&empty), parity);
          const unsigned barrier = shared_address(&full);
          mbarrier_expect(barrier, Block::kQueryBytes + Block::kRowBytes + more_bytes);
          const int h = task.slice * p.heads_per_slice + g;
#pragma unroll
          for (int n = 0; n < kBlocks; ++n)
            tma_load(shared_address(to) + n * kQueries * 128, map, barrier, n * 64, h, query * kQueries,
                     task.batch);
          bulk_load(shared_address(rows_to),
                    rows + static_cast<size_t>(p.tile_index(task.batch, h, query)) * kQueries,
                    Block::kRowBytes, barrier);
        };
        load(p.q, shared.q[stage], p.scratch.log_sum_exp, shared.log_sum_exp[stage], shared.q_full[stage],
             shared.q_empty[stage], R::kAreListed ? sizeof(PackedTile) : 0);
        if constexpr (R::kAreListed)
          bulk_load(shared_address(&shared.tiles[stage]),
                    p.scratch.tiles + p.tile_index(task.batch, task.slice, query), sizeof(PackedTile),
                    shared_address(&shared.q_full[stage]));
        load(p.dout, shared.dout[stage], p.scratch.dots, shared.dots[stage], shared.dout_full[stage],
             shared.dout_empty[stage], 0);
        if (!is_first) continue;
        is_first = false;
        const auto load_keys = [&](const CUtensorMap& map, uint16_t* to, uint64_t& full, uint64_t& empty) {
          mbarrier_wait(shared_address(&empty), (i & 1) ^ 1);
          const unsigned barrier = shared_address(&full);
          mbarrier_expect(barrier, Block::kKeyBytes);
#pragma unroll
          for (int n = 0; n < kBlocks; ++n)
            tma_load(shared_address(to) + n * kBackwardKeys * 128, map, barrier, n * 64,
                     task.slice / p.slices_per_key_head, task.key_tile * kBackwardKeys, task.batch);
        };
        load_keys(p.v, shared.v, shared.v_full, shared.v_empty);
        load_keys(p.k, shared.k, shared.k_full, shared.k_empty);
      }
    if constexpr (kHasValueStores<D>)
      mbarrier_wait(shared_address(&shared.q_empty[step & 1]), parity_of(step) ^ 1);
    index = static_cast<int>(atomicAdd(p.scratch.next_task, 1u));
  }
}

/// The i-th task of a block, or the end of them, once it is there.
template <int D, class R>
__device__ __forceinline__ const BackwardTask& await_task(BackwardShared<D, R>& shared, unsigned i) {
  mbarrier_wait(shared_address(&shared.task_full[i & 1]), parity_of(i));
  return shared.tasks[i & 1];
}

/// Rows of a key tile, 64 channels after 64.
template <int D>
__device__ __forceinline__ void store_keys(const CUtensorMap& map, unsigned from, const BackwardTask& task) {
#pragma unroll
  for (int n = 0; n < D / 64; ++n)
    tma_store(map, from + n * kBackwardKeys * 128, n * 64, task.slice, task.key_tile * kBackwardKeys,
              task.batch);
}

/// Until so many key tiles have added to a query tile.
__device__ __forceinline__ void await_turn(const unsigned* turn, unsigned number) {
#ifdef HEADWAY_WATCHDOG
  const unsigned start = static_cast<unsigned>(clock());
#endif
  while (load_acquire(turn) != number) {
#ifdef HEADWAY_WATCHDOG
    if (static_cast<unsigned>(clock()) - start > 1u << 29) {
      asm volatile("trap;");
      __builtin_unreachable();
    }
#endif
  }
  fence_async_proxy_global();
}

/// The thread that stores what goes through one of the staging buffers: the query tiles' dQ in turns, and at
/// the end of a task dK (and dV).
template <int D, class R>
__device__ __forceinline__ void store_sums(const BackwardParams<R>& p, BackwardShared<D, R>& shared,
                                           unsigned buffer) {
  using Block = BackwardBlock<D, R>;
  constexpr int kQueries = Block::kQueries;
  const unsigned stage = shared_address(shared.sums[buffer]),
                 empty = shared_address(&shared.sums_empty[buffer]),
                 full = shared_address(&shared.sums_full[buffer]);
  unsigned use = 0;
  constexpr unsigned kNone = ~0u;
  unsigned added = kNone;  // index of the tile whose addition is under way
  const auto turn_of = [&](unsigned tile) {
    return p.scratch.turns + static_cast<size_t>(tile) * kCounterStride;
  };
  const auto signal = [&] {
    if (added == kNone) return;
    bulk_wait<0>();
    fence_async_proxy_global();
    add_release(turn_of(added), 1);
    added = kNone;
  };
  for (unsigned i = 0;; ++i) {
    const BackwardTask& task = await_task(shared, i);
    if (task.key_tile < 0) break;
    for (int g = 0; g < p.heads_per_slice; ++g)
      for (int query = task.first; query < task.last; ++query, ++use) {
        if ((use & 1) != buffer) continue;
        const int h = task.slice * p.heads_per_slice + g;
        const unsigned tile = p.tile_index(task.batch, h, query);
        float* const sums = p.scratch.dq_sums + static_cast<size_t>(tile) * (kQueries * D);
        const KeyTiles keys = p.template key_tiles<kQueries>(query, tile);
        const bool is_last = task.key_tile == keys.first;
        const unsigned number = static_cast<unsigned>(keys.last - task.key_tile);
        if (is_last && number > 0) {  // the buffer is handed over together with the sums so far
          signal();
          await_turn(turn_of(tile), number);
          mbarrier_expect(empty, Block::kSumBytes);
          bulk_load(stage, sums, Block::kSumBytes, empty);
        } else {
          mbarrier_arrive(empty);
          signal();
          if (number > 0) await_turn(turn_of(tile), number);
        }
        mbarrier_wait(full, parity_of(use));
        if (is_last) {
#pragma unroll 1
          for (int warp = 0; warp < kProductWarps; ++warp) {
            const int rows = D == 64 ? warp : warp & 3, block = D == 64 ? 0 : warp >> 2;
            tma_store(p.dq, stage + warp * 4096, block * 64, h, query * kQueries + rows * 16, task.batch);
          }
        } else if (number == 0) {
          bulk_store(sums, stage, Block::kSumBytes);
        } else {
          bulk_reduce_add(sums, stage, Block::kSumBytes);
        }
        bulk_commit();
        bulk_wait_read<0>();
        if (!is_last) added = tile;
      }
    if ((use & 1) == buffer) {
      mbarrier_arrive(empty);
      signal();
      mbarrier_wait(full, parity_of(use));
      store_keys<D>(p.dk, stage, task);
      if constexpr (!kHasValueStores<D>) store_keys<D>(p.dv, stage + Block::kKeyBytes, task);
      bulk_commit();
      bulk_wait_read<0>();
    }
    ++use;
    signal();
    mbarrier_arrive(shared_address(&shared.task_empty[i & 1]));
  }
  bulk_wait<0>();
}

/// The thread that stores dV out of the buffers of dS.
template <int D, class R>
__device__ __forceinline__ void store_values(const BackwardParams<R>& p, BackwardShared<D, R>& shared) {
  for (unsigned i = 0;; ++i) {
    const BackwardTask& task = await_task(shared, i);
    if (task.key_tile < 0) break;
    mbarrier_wait(shared_address(&shared.dv_full), i & 1);
    store_keys<D>(p.dv, shared_address(shared.ds), task);
    bulk_commit();
    bulk_wait_read<0>();
    mbarrier_arrive(shared_address(&shared.dv_empty));
    mbarrier_arrive(shared_address(&shared.task_empty[i & 1]));
  }
  bulk_wait<0>();
}

/// Four 8x8 matrices to shared memory; the address of lane l is that of row l%8 of matrix l/8.
__device__ inline void store_matrices(unsigned to, const unsigned (&from)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(from[0]),
               "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
}

/// 16 rows of the warp and 2 N channels, times the factor and rounded, in swizzled rows of 64 channels,
/// block_bytes from 64 to the next 64. to: the lane's own address, of its row and piece.
template <int N>
__device__ __forceinline__ void store_rounded(unsigned to, int block_bytes, const float (&x)[N],
                                              float factor) {
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    const float* const y = x + 8 * i;
    store_matrices((to ^ ((i & 3) * 32)) + (i >> 2) * block_bytes,
                   {round_pair(y[0] * factor, y[1] * factor), round_pair(y[2] * factor, y[3] * factor),
                    round_pair(y[4] * factor, y[5] * factor), round_pair(y[6] * factor, y[7] * factor)});
  }
}

/// A warpgroup's products: 64 keys of each task.
template <int D, class R>
__device__ __forceinline__ void multiply_tasks(const BackwardParams<R>& p, BackwardShared<D, R>& shared) {
  using Block = BackwardBlock<D, R>;
  constexpr int kQueries = Block::kQueries, kQueryBytes = Block::kQueryBytes;
  constexpr int kScores = kQueries / 2, kSums = D / 2;  // registers of S and of dK, dV
  const int warp = uniform(static_cast<int>(threadIdx.x - kWarpgroup) / kWarp);
  const int warpgroup = warp >> 2, lane = static_cast<int>(threadIdx.x) % kWarp, column = lane % 4 * 2;
  // Matrices of products: rows of keys, all keys or channels; a step of 16 in depth is added.
  constexpr int kKeyHalf = 64 * 128, kKeyBlock = kBackwardKeys * 128, kQueryBlock = kQueries * 128;
  const uint64_t k_rows = wgmma_descriptor(shared_address(shared.k) + warpgroup * kKeyHalf, 0),
                 v_rows = wgmma_descriptor(shared_address(shared.v) + warpgroup * kKeyHalf, 0),
                 k_channels =
                     wgmma_descriptor(shared_address(shared.k) + (D == 128 ? warpgroup * kKeyBlock : 0), 0),
                 q_rows = wgmma_descriptor(shared_address(shared.q), 0),
                 dout_rows = wgmma_descriptor(shared_address(shared.dout), 0),
                 q_channels = wgmma_descriptor(shared_address(shared.q), kQueryBlock),
                 dout_channels = wgmma_descriptor(shared_address(shared.dout), kQueryBlock),
                 ds_columns = wgmma_descriptor(
                     shared_address(shared.ds) + (kQueries == 128 ? warpgroup * kKeyBlock : 0), 0);
  const auto deep = [](int step, int block_bytes) {  // 16 channels step
    return static_cast<uint64_t>((step / 4 * block_bytes + step % 4 * 32) / 16);
  };
  const int key = warp * 16 + lane / 4;  // in the tile; the other is key + 8
  // Of the row and piece that a lane stores of a matrix: see store_matrices.
  const unsigned matrix_row = (lane >> 3 & 1) * 8 + (lane & 7),
                 matrix_at = matrix_row * 128 + ((lane >> 4 ^ (lane & 7)) << 4);
  const unsigned ds_at = shared_address(shared.ds) + warp * 16 * 128 + matrix_at,
                 sums_at = shared_address(shared.sums) + warp * 4096;
  const float exponent = p.scale * kLog2E;
  const auto arrive = [&](uint64_t& barrier) {
    if (lane == 0) mbarrier_arrive(shared_address(&barrier));
  };

  float dk[kSums], dv[kSums], s[kScores];
  unsigned step = 0, use = 0;
  for (unsigned i = 0;; ++i) {
    const BackwardTask task = await_task(shared, i);
    __syncwarp();
    arrive(shared.task_empty[i & 1]);
    if (task.key_tile < 0) break;
    const int first_key = task.key_tile * kBackwardKeys;
    const int num_steps = p.heads_per_slice * (task.last - task.first);
    for (int n = 0, query = task.first; n < num_steps; ++n, ++step) {
      const unsigned stage = step & 1, parity = parity_of(step);
      const bool is_first = n == 0, is_end = n == num_steps - 1;
      const int first_row = query * kQueries;
      float dp[kScores];
      mbarrier_wait(shared_address(&shared.q_full[stage]), parity);
      if (is_first) mbarrier_wait(shared_address(&shared.k_full), i & 1);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < D / 16; ++k)
        wgmma(s, k_rows + deep(k, kKeyBlock), q_rows + stage * (kQueryBytes / 16) + deep(k, kQueryBlock),
              k > 0);
      wgmma_commit();
      mbarrier_wait(shared_address(&shared.dout_full[stage]), parity);
      if (is_first) mbarrier_wait(shared_address(&shared.v_full), i & 1);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < D / 16; ++k)
        wgmma(dp, v_rows + deep(k, kKeyBlock), dout_rows + stage * (kQueryBytes / 16) + deep(k, kQueryBlock),
              k > 0);
      wgmma_commit();
      wgmma_wait<1>();
      pin_registers(s);
      // Only tiles at an edge of what rows see are tested; a row behind the last has weight exp2(-inf).
      const int window = p.plan.params.window;
      int position = p.plan.query_offset + first_row, last_position = position + kQueries - 1;
      KeyTiles keys;
      if constexpr (R::kAreListed) {
        const PackedTile& tile = shared.tiles[stage];
        position = p.plan.query_offset + tile.first_row, last_position = p.plan.query_offset + tile.last_row;
        keys = {tile.first_key_tile, tile.last_key_tile};
      }
      const bool is_whole = first_key + kBackwardKeys - 1 <= position &&
                            first_key + kBackwardKeys <= p.plan.num_keys &&
                            (window == 0 || first_key > last_position - window);
      if constexpr (R::kAreListed) {
        if (!is_whole) {
          // Rows from the first that sees the key, as many as the window is long.
          const unsigned length = window == 0 ? INT_MAX : static_cast<unsigned>(window);
          const int own_key = first_key + key, from = own_key - p.plan.query_offset;
          const int from_0 = own_key < p.plan.num_keys ? from : INT_MAX / 2,
                    from_1 = own_key + 8 < p.plan.num_keys ? from + 8 : INT_MAX / 2;
          const int* const rows =
              p.scratch.packed_rows +
              static_cast<size_t>(p.tile_index(task.batch, task.slice, query)) * kQueries + column;
#pragma unroll
          for (int j = 0; j < kScores / 4; ++j) {
            const int2 row = __ldg(reinterpret_cast<const int2*>(rows + 8 * j));
            if (static_cast<unsigned>(row.x - from_0) >= length) s[4 * j] = -INFINITY;
            if (static_cast<unsigned>(row.y - from_0) >= length) s[4 * j + 1] = -INFINITY;
            if (static_cast<unsigned>(row.x - from_1) >= length) s[4 * j + 2] = -INFINITY;
            if (static_cast<unsigned>(row.y - from_1) >= length) s[4 * j + 3] = -INFINITY;
          }
        }
      } else if (!is_whole) {
        // Columns from the first that sees the key, as many as the window is long.
        const unsigned length = window == 0 ? INT_MAX : static_cast<unsigned>(window);
        const int from = first_key + key - position - column;
        const int from_0 = first_key + key < p.plan.num_keys ? from : INT_MAX / 2,
                  from_1 = first_key + key + 8 < p.plan.num_keys ? from + 8 : INT_MAX / 2;
#pragma unroll
        for (int j = 0; j < kScores / 4; ++j) {
          if (static_cast<unsigned>(8 * j - from_0) >= length) s[4 * j] = -INFINITY;
          if (static_cast<unsigned>(8 * j + 1 - from_0) >= length) s[4 * j + 1] = -INFINITY;
          if (static_cast<unsigned>(8 * j - from_1) >= length) s[4 * j + 2] = -INFINITY;
          if (static_cast<unsigned>(8 * j + 1 - from_1) >= length) s[4 * j + 3] = -INFINITY;
        }
      }
      const float* const log_sum_exp = shared.log_sum_exp[stage] + column;
      const float* const dots = shared.dots[stage] + column;
#pragma unroll
      for (int j = 0; j < kScores / 4; ++j) {
        const float2 l = *reinterpret_cast<const float2*>(log_sum_exp + 8 * j);
        s[4 * j] = power_of_2(fmaf(s[4 * j], exponent, -l.x));
        s[4 * j + 1] = power_of_2(fmaf(s[4 * j + 1], exponent, -l.y));
        s[4 * j + 2] = power_of_2(fmaf(s[4 * j + 2], exponent, -l.x));
        s[4 * j + 3] = power_of_2(fmaf(s[4 * j + 3], exponent, -l.y));
      }
      // Never true: without these stores ptxas moves the powers behind the wait for dP.
      if (p.num_query_tiles < 0) {
#pragma unroll
        for (int j = 0; j < kScores; ++j) shared.sums[0][j] = s[j];
      }
      wgmma_wait<0>();
      pin_registers(dp);
      if (is_end) arrive(shared.v_empty);
      if (kHasValueStores<D> && is_first) mbarrier_wait(shared_address(&shared.dv_empty), (i & 1) ^ 1);
      unsigned weights[kQueries / 16][4], slopes[kQueries / 16][4];
#pragma unroll
      for (int k = 0; k < kQueries / 16; ++k) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int j = 4 * (2 * k + half);
          const float2 d = *reinterpret_cast<const float2*>(dots + 2 * j);
          slopes[k][2 * half] = round_pair(s[j] * (dp[j] - d.x), s[j + 1] * (dp[j + 1] - d.y));
          slopes[k][2 * half + 1] = round_pair(s[j + 2] * (dp[j + 2] - d.x), s[j + 3] * (dp[j + 3] - d.y));
          weights[k][2 * half] = round_pair(s[j], s[j + 1]);
          weights[k][2 * half + 1] = round_pair(s[j + 2], s[j + 3]);
        }
        store_matrices(((ds_at + stage * Block::kSlopeBytes) ^ ((k & 3) * 32)) + (k >> 2) * kKeyBlock,
                       slopes[k]);
      }
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kQueries / 16; ++k)
        wgmma(dv, weights[k], dout_channels + (stage * kQueryBytes + k * 2048) / 16, k > 0 || !is_first);
      wgmma_commit();
      fence_async_proxy();
      named_barrier_wait(1, kProductThreads);
      float dq[32];
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kBackwardKeys / 16; ++k)
        wgmma<Major::other, Major::other>(dq, ds_columns + (stage * Block::kSlopeBytes + k * 2048) / 16,
                                          k_channels + k * 2048 / 16, k > 0);
      wgmma_commit();
      wgmma_wait<1>();
      pin_registers(dv);
      arrive(shared.dout_empty[stage]);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kQueries / 16; ++k)
        wgmma(dk, slopes[k], q_channels + (stage * kQueryBytes + k * 2048) / 16, k > 0 || !is_first);
      wgmma_commit();
      wgmma_wait<1>();
      pin_registers(dq);
      if (is_end) arrive(shared.k_empty);
      // dQ to the staging buffer, every warp to its own part; added to what is there and rounded by the last.
      const unsigned buffer = use & 1, to = sums_at + buffer * Block::kSumBytes;
      if constexpr (!R::kAreListed) keys = p.template key_tiles<kQueries>(query, 0);
      mbarrier_wait(shared_address(&shared.sums_empty[buffer]), parity_of(use));
      if (task.key_tile == keys.first) {
        if (keys.first != keys.last) {
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const uint4 sum = load_shared(to + j * 512 + lane * 16);
            dq[4 * j] += __uint_as_float(sum.x), dq[4 * j + 1] += __uint_as_float(sum.y);
            dq[4 * j + 2] += __uint_as_float(sum.z), dq[4 * j + 3] += __uint_as_float(sum.w);
          }
          __syncwarp();
        }
        store_rounded(to + matrix_at, 0, dq, p.scale);
      } else {
#pragma unroll
        for (int j = 0; j < 8; ++j)
          asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(to + j * 512 + lane * 16),
                       "f"(dq[4 * j]), "f"(dq[4 * j + 1]), "f"(dq[4 * j + 2]), "f"(dq[4 * j + 3])
                       : "memory");
      }
      fence_async_proxy();
      __syncwarp();
      arrive(shared.sums_full[buffer]);
      ++use;
      wgmma_wait<0>();
      pin_registers(dk);
      arrive(shared.q_empty[stage]);
      if (++query == task.last) query = task.first;
    }
    if constexpr (kHasValueStores<D>) {
      named_barrier_wait(1, kProductThreads);  // nobody reads dS any more
      store_rounded(ds_at, kKeyBlock, dv, 1);
      fence_async_proxy();
      __syncwarp();
      arrive(shared.dv_full);
    }
    const unsigned buffer = use & 1;
    mbarrier_wait(shared_address(&shared.sums_empty[buffer]), parity_of(use));
    const unsigned to = shared_address(shared.sums[buffer]) + warp * 16 * 128 + matrix_at;
    store_rounded(to, kKeyBlock, dk, p.scale);
    if constexpr (!kHasValueStores<D>) store_rounded(to + Block::kKeyBytes, kKeyBlock, dv, 1);
    fence_async_proxy();
    __syncwarp();
    arrive(shared.sums_full[buffer]);
    ++use;
  }
}

#endif  // HEADWAY_WGMMA

template <int D, class R>
__global__ void __launch_bounds__(3 * kWarpgroup, 1)
    backward_kernel(const __grid_constant__ BackwardParams<R> p) {
#ifdef HEADWAY_WGMMA
  extern __shared__ __align__(1024) uint4 memory[];
  BackwardShared<D, R>& shared = *reinterpret_cast<BackwardShared<D, R>*>(memory);
  const int warp = uniform(static_cast<int>(threadIdx.x) / kWarp);
  if (threadIdx.x == 0) {
    const auto init = [](uint64_t& barrier, unsigned count) {
      mbarrier_init(shared_address(&barrier), count);
    };
    constexpr unsigned kStoreWarps = kHasValueStores<D> ? 3 : 2;
    init(shared.k_full, 1), init(shared.k_empty, kProductWarps);
    init(shared.v_full, 1), init(shared.v_empty, kProductWarps);
    init(shared.dv_full, kProductWarps), init(shared.dv_empty, 1);
    for (int n = 0; n < 2; ++n) {
      init(shared.q_full[n], 1), init(shared.q_empty[n], kProductWarps);
      init(shared.dout_full[n], 1), init(shared.dout_empty[n], kProductWarps);
      init(shared.task_full[n], 1), init(shared.task_empty[n], kProductWarps + kStoreWarps);
      init(shared.sums_full[n], kProductWarps), init(shared.sums_empty[n], 1);
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  if (warp < 4) {
    warpgroup_reg_dealloc<24>();
    if (threadIdx.x % kWarp != 0) return;
    if (warp == 0)
      load_tasks(p, shared);
    else if (warp <= 2)
      store_sums(p, shared, static_cast<unsigned>(warp - 1));
    else if (kHasValueStores<D>)
      store_values(p, shared);
  } else {
    warpgroup_reg_alloc<240>();
    multiply_tasks(p, shared);
  }
#endif
}

/// The list goes in sections of as many slices as have their sums in half of an L2 cache of 50 MB, together
/// with what is read beside them. A slice works on one of its heads at a time.
inline int slices_per_section(int64_t rows, int width) {
  const double slices = 26e6 / (12.0 * static_cast<double>(rows) * width);
  return 1 << std::clamp(static_cast<int>(std::floor(std::log2(std::max(slices, 1.0)))), 0, 20);
}

/// How many of the heads that share keys one task takes: a divisor of their number. As tasks grow, the GPU
/// waits longer for the last of them, which are the longest; as they shrink, more parts of dK and dV are
/// written and summed. Both are estimated from what was measured on an H200, in microseconds, on all GPUs
/// alike, so that bits do not depend on the GPU.
inline int heads_per_slice(const Backward& a, int queries) {
  constexpr double kStep = 2.5, kWait = 1.2, kBytesPerMicrosecond = 3.6e6, kLaunch = 5;
  const auto &q = a.q.size, &k = a.k.size;
  const int64_t group = q[2] / k[2], window = a.plan.params.window,
                rows = window == 0 ? q[1] : std::min(q[1], window + kBackwardKeys),
                steps = (rows + queries - 1) / queries;  // of a head in the longest task
  int64_t best = group;
  double least = INFINITY;
  for (int64_t heads = group; heads >= 1; --heads) {
    if (group % heads != 0) continue;
    double time = kWait * kStep * static_cast<double>(heads * steps);
    if (heads < group)
      time += kLaunch + 8.0 * static_cast<double>(k[0] * k[1] * k[3] * q[2] / heads) / kBytesPerMicrosecond;
    if (time < least) least = time, best = heads;
  }
  return static_cast<int>(best);
}

template <int D, class R>
View<const float, 3> backward_of_rows(const Backward& a, Stream& stream) {
  constexpr int kQueries = kBackwardQueries<D>;
  const int64_t B = a.q.size[0], T = a.q.size[1], H = a.q.size[2], Dh = a.q.size[3], Tk = a.k.size[1],
                K = a.k.size[2];
  const int64_t tiles = (T + kQueries - 1) / kQueries, padded = tiles * kQueries;

  const int heads = R::kAreListed ? 1 : heads_per_slice(a, kQueries);
  const int64_t slices = H / heads;
  const bool is_split = slices > K;
  const auto part_bytes = static_cast<size_t>(B * Tk * slices * Dh) * sizeof(bf16);

  BackwardScratch scratch{};
  size_t bytes = 0;
  const auto place = [&](size_t size) {
    const size_t at = bytes;
    bytes += (size + 1023) / 1024 * 1024;
    return at;
  };
  const auto rows = static_cast<size_t>(B * H * padded);
  const size_t at_lse = place(rows * sizeof(float)), at_dots = place(rows * sizeof(float)),
               at_turns = place(static_cast<size_t>(B * H * tiles) * kCounterStride * sizeof(unsigned)),
               at_next = place(sizeof(unsigned)), at_sums = place(rows * D * sizeof(float)),
               at_dkv = place(is_split ? 2 * part_bytes : 0),
               at_dout =
                   place(R::kAreListed || a.row_scale ? rows * static_cast<size_t>(Dh) * sizeof(bf16) : 0);
  const int64_t key_tiles = (Tk + kBackwardKeys - 1) / kBackwardKeys;
  const auto place_list = [&](size_t size) { return place(R::kAreListed ? size : 0); };
  const size_t at_counts = place_list(static_cast<size_t>(B * H) * sizeof(int)),
               at_q = place_list(rows * static_cast<size_t>(Dh) * sizeof(bf16)),
               at_rows = place_list(rows * sizeof(int)),
               at_tiles = place_list(static_cast<size_t>(B * H * tiles) * sizeof(PackedTile)),
               at_tiles_of_keys = place_list(static_cast<size_t>(B * H * key_tiles) * sizeof(int2));
  std::byte* const memory = stream.scratch(bytes).data();
  scratch.log_sum_exp = reinterpret_cast<float*>(memory + at_lse);
  scratch.dots = reinterpret_cast<float*>(memory + at_dots);
  scratch.turns = reinterpret_cast<unsigned*>(memory + at_turns);
  scratch.next_task = reinterpret_cast<unsigned*>(memory + at_next);
  scratch.dq_sums = reinterpret_cast<float*>(memory + at_sums);
  scratch.scaled_dout = R::kAreListed || a.row_scale ? reinterpret_cast<bf16*>(memory + at_dout) : nullptr;
  scratch.counts = reinterpret_cast<int*>(memory + at_counts);
  scratch.packed_q = reinterpret_cast<bf16*>(memory + at_q);
  scratch.packed_rows = reinterpret_cast<int*>(memory + at_rows);
  scratch.tiles = reinterpret_cast<PackedTile*>(memory + at_tiles);
  scratch.tiles_of_keys = reinterpret_cast<int2*>(memory + at_tiles_of_keys);

  // Key tiles seen by the first row up to those seen by the last.
  const int num_rows = static_cast<int>(T);
  const KeyTiles seen = key_tiles_of_rows(a.plan, 0, num_rows - 1);
  const int64_t row_blocks = B * H * ((padded + kBackwardRowsOfBlock - 1) / kBackwardRowsOfBlock);
  if constexpr (R::kAreListed) {
    clear_unlisted_rows(a.row_index, a.dq, {}, a.drow_scale, 0, scratch.counts, stream);
    const unsigned blocks = blocks_for(B * H * std::max(tiles, key_tiles), kBackwardRowThreads);
    backward_tiles_kernel<D><<<blocks, kBackwardRowThreads, 0, stream.native()>>>(
        a, scratch, static_cast<int>(tiles), static_cast<int>(key_tiles));
    check_launch(a.name);
  }
  constexpr auto kRowsKernel = R::kAreListed ? backward_packed_rows_kernel<D> : backward_rows_kernel<D>;
  kRowsKernel<<<static_cast<unsigned>(row_blocks), kBackwardRowThreads, 0, stream.native()>>>(
      a, scratch, static_cast<int>(padded), seen);
  check_launch(a.name);

  View<const float, 3> dots;
  if constexpr (!R::kAreListed) dots = {scratch.dots, {B, H, T}, {H * padded, padded, 1}};
  const auto unpack = [&] {
    const unsigned copy_blocks = blocks_for(B * H * padded * kBackwardRowLanes, kBackwardRowThreads);
    backward_unpack_kernel<D>
        <<<copy_blocks, kBackwardRowThreads, 0, stream.native()>>>(a, scratch, static_cast<int>(padded));
    check_launch(a.name);
  };
  if (seen.first > seen.last) {
    if constexpr (R::kAreListed) unpack();
    return dots;
  }
  View<const bf16, 4> q = a.q, dout = a.dout;
  View<bf16, 4> dq = a.dq;
  if constexpr (R::kAreListed) {
    const auto packed = [&](auto* data) {
      return View<std::remove_pointer_t<decltype(data)>, 4>{
          data, {B, padded, H, Dh}, {H * padded * Dh, Dh, padded * Dh, 1}};
    };
    // Whoever writes a tile of dq comes after all who read its q.
    dq = packed(scratch.packed_q), q = dq, dout = packed(scratch.scaled_dout);
  } else if (a.row_scale) {
    dout = {scratch.scaled_dout, {B, T, H, Dh}, {T * H * Dh, H * Dh, Dh, 1}};
  }
  View<bf16, 4> dk = a.dk, dv = a.dv;
  if (is_split) {
    const auto part = [&](size_t at) {
      return View<bf16, 4>{
          reinterpret_cast<bf16*>(memory + at), {B, Tk, slices, Dh}, {Tk * slices * Dh, slices * Dh, Dh, 1}};
    };
    dk = part(at_dkv), dv = part(at_dkv + part_bytes);
  }
  BackwardParams<R> p{};
  p.q = tensor_map(q, {1, kQueries, 1, 64});
  p.dout = tensor_map(dout, {1, kQueries, 1, 64});
  p.k = tensor_map(a.k, {1, kBackwardKeys, 1, 64});
  p.v = tensor_map(a.v, {1, kBackwardKeys, 1, 64});
  p.dq = tensor_map(dq, {1, 16, 1, 64});
  p.dk = tensor_map(dk, {1, kBackwardKeys, 1, 64});
  p.dv = tensor_map(dv, {1, kBackwardKeys, 1, 64});
  p.scratch = scratch;
  p.plan = a.plan;
  p.seen = seen;
  p.batch = static_cast<int>(B);
  p.slices = static_cast<int>(slices);
  p.heads_per_slice = heads;
  p.slices_per_key_head = static_cast<int>(slices / K);
  p.slices_per_section = static_cast<int>(std::min<int64_t>(slices_per_section(T, D), B * slices));
  p.num_query_tiles = static_cast<int>(tiles);
  p.scale = static_cast<float>(a.scale);
  const int64_t num_tasks = B * slices * (seen.last - seen.first + 1);
  constexpr int kBytes = kBackwardSharedBytes<D, R>;
  allow_shared(backward_kernel<D, R>, kBytes, a.name);
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(num_multiprocessors(stream), num_tasks));
  backward_kernel<D, R><<<blocks, 3 * kWarpgroup, kBytes, stream.native()>>>(p);
  check_launch(a.name);
  if constexpr (R::kAreListed) unpack();
  if (is_split) {
    sum_slices(dk, a.dk, seen, stream);
    sum_slices(dv, a.dv, seen, stream);
  }
  return dots;
}

template <int D>
View<const float, 3> backward_of_width(const Backward& a, Stream& stream) {
  return a.row_index ? backward_of_rows<D, ListedRows>(a, stream) : backward_of_rows<D, AllRows>(a, stream);
}

}  // namespace headway::cuda::hopper
