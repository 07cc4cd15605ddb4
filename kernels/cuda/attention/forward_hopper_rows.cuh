// What both forward kernels for Hopper share: their arguments, the order in which blocks take tiles of rows,
// and how a warp's rows leave.
//
// Blocks stay and take one tile of rows after another from a counter. Tiles are ordered in sections of heads
// whose keys and values fit the L2 cache together, within a section from the last rows, which see the most
// keys, to the first, and within a tile of rows head by head, so that the heads of a group follow each other.
#pragma once

#include <cuda.h>

#include <bit>

#include "kernels/cuda/attention/forward_hopper_softmax.cuh"
#include "kernels/cuda/attention/query_rows.cuh"
#include "kernels/cuda/tile/mbarrier.cuh"
#include "kernels/cuda/tile/tma.cuh"

namespace headway::cuda::hopper {

/// Divides 0 <= n < 2^31 by a number that the host knows, in two instructions.
struct Divisor {
  int value = 1;
  unsigned multiplier = 0, shift = 0;  // the quotient is (n multiplier >> 32) >> shift

  Divisor() = default;
  explicit Divisor(int divisor) : value(divisor) {
    if (divisor == 1) return;
    const int log = std::bit_width(static_cast<unsigned>(divisor - 1));  // of the next power of 2
    const uint64_t d = static_cast<uint64_t>(divisor);
    multiplier = static_cast<unsigned>(((uint64_t{1} << (31 + log)) + d - 1) / d);
    shift = static_cast<unsigned>(log - 1);
  }
  __device__ int quotient(int n) const {
    return value == 1 ? n : static_cast<int>(__umulhi(static_cast<unsigned>(n), multiplier) >> shift);
  }
};

/// M: who says which keys a row sees, see TilePlan. R: AllRows, or ListedRows, whose q, o and y are copied
/// row by row.
template <class M, class R = AllRows>
struct ForwardArgs {
  using Rows = R;
  CUtensorMap q, k, v, o, y;  // coordinates: channel in boxes of 64, head, row, sequence
  TilePlan<M> plan;
  float power, limit, scale;      // see RunningSoftmax; natural logits are scale times scores
  Divisor num_heads, group;       // of queries, and of those for a key head
  int row_tiles, num_tiles;       // tiles of rows of a head, and of all
  Divisor section, last_section;  // heads
  Divisor section_tiles;          // tiles of rows of a section
  int num_sections;
  unsigned* taken;                 // tiles beyond each block's first; null where there are none
  View<float, 3> log_sum_exp;      // [B,H,T]
  View<const float, 3> row_scale;  // [B,H,T] or absent
  View<const float, 1> sink;       // [H] or absent
  bool writes_y;
  R rows_of_queries;
};

/// A tile of rows of one head; of listed rows, the slot of the first in PackedRows. first < 0: none is left.
struct RowsOfHead {
  int first, batch, head;
};
/// The first of a tile that no listed row fills; others may be left.
inline constexpr int kEmptyTile = -2;

template <int kRows, class Args>
__device__ RowsOfHead rows_at(const Args& args, int index) {
  if (index >= args.num_tiles) return {-1, 0, 0};
  const int section = args.section_tiles.quotient(index), within = index - section * args.section_tiles.value;
  const Divisor& heads = section == args.num_sections - 1 ? args.last_section : args.section;
  const int tile = heads.quotient(within);
  const int batch_head = section * args.section.value + within - tile * heads.value,
            batch = args.num_heads.quotient(batch_head);
  const int head = batch_head - batch * args.num_heads.value;
  if constexpr (Args::Rows::kAreListed) {
    const int count = args.rows_of_queries.counts[batch_head];
    return {tile * kRows < count ? ((count - 1) / kRows - tile) * kRows : kEmptyTile, batch, head};
  }
  return {(args.row_tiles - 1 - tile) * kRows, batch, head};
}
/// A tile that a block takes after its first, whose index is blockIdx.x. The counter's answer is not waited
/// for before index() is asked.
struct NextTile {
  unsigned beyond = blockIdx.x - gridDim.x;  // the first tiles of all blocks

  __device__ int index() const { return static_cast<int>(gridDim.x + beyond); }
  template <class Args>
  __device__ void take(const Args& args) {
    asm volatile("{ .reg .pred p; setp.ne.u64 p, %1, 0; mov.u32 %0, %2; @p atom.global.add.u32 %0, [%1], 1; }"
                 : "=r"(beyond)
                 : "l"(args.taken), "r"(args.num_tiles)
                 : "memory");
  }
};

/// What largest scores are at least: the sink's, where there is one, which is in every row's denominator.
template <class Args>
__device__ float lowest_score(const Args& args, int head) {
  return args.sink ? fmaxf(args.sink(head) / args.scale, kLowest) : kLowest;
}

/// Factors that make sums the rows of Y and O.
struct RowFactors {
  float y[2], o[2];
};

/// Ends the softmax of a lane's two rows, whose log-sum-exp it writes where they exist.
template <class Args>
__device__ RowFactors finish_rows(const Args& args, const RunningSoftmax& softmax, const RowsOfHead& tile,
                                  const int (&rows)[2]) {
  RowFactors factors;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = rows[half];
    const bool exists = t < args.plan.num_queries;
    const float largest = softmax.largest[half] * args.scale;
    float sum = quad_sum(softmax.total[half]);
    if (args.sink) sum += power_of_2((args.sink(tile.head) - largest) * kLog2E);
    // A sum of zero means a row without keys. A sum that is NaN is not zero, so it reaches the output.
    const bool is_empty = sum == 0;
    factors.y[half] = is_empty ? 0.0f : 1 / sum;
    factors.o[half] = factors.y[half];
    if (args.row_scale && exists) factors.o[half] *= args.row_scale(tile.batch, tile.head, t);
    if (exists && threadIdx.x % 4 == 0)
      args.log_sum_exp(tile.batch, tile.head, t) = is_empty ? -INFINITY : largest + logf(sum);
  }
  return factors;
}

/// The warp's 16 rows, scaled and rounded, in shared memory for a tensor copy: at `to` in blocks of 64
/// channels, block_bytes apart.
template <int N>
__device__ void stage_rows(unsigned to, int block_bytes, const float (&sums)[N], const float (&factor)[2]) {
  const int lane = threadIdx.x % kWarp, row = lane % 16;
#pragma unroll
  for (int k = 0; k < N / 8; ++k) {
    const int piece = k % 4 * 2 + lane / 16;
    const auto pair = [&](int i) {
      return round_pair(factor[i / 2 % 2] * sums[8 * k + i], factor[i / 2 % 2] * sums[8 * k + i + 1]);
    };
    store_matrices(to + static_cast<unsigned>(k / 4 * block_bytes + row * 128 + ((piece ^ (row & 7)) << 4)),
                   pair(0), pair(2), pair(4), pair(6));
  }
  fence_async_proxy();
}

}  // namespace headway::cuda::hopper
