// The forward pass on Hopper for long rows of keys, as FlashAttention-3 has it (arXiv 2407.08608): one warp
// loads, and warpgroups of 64 rows each multiply and take powers. Heads of 128: two of them; of 64: three.
//
// A warpgroup asks for the scores of the next key tile before it takes the powers of this one, so that the
// tensor cores have work meanwhile. Three warpgroups take turns in asking, which spreads their powers; for
// two it costs more than it brings (docs/performance.md).
#pragma once

#include "kernels/cuda/attention/forward_hopper_rows.cuh"

namespace headway::cuda::hopper {

/// A tile of rows, as the loading thread describes it to the warpgroups.
template <int kConsumers>
struct TileOfRows {
  SeenTiles seen[kConsumers];
  RowsOfHead rows;
  TileRange keys;
};

template <int D>
struct Pipeline {
  static constexpr int kConsumers = D == 128 ? 2 : 3, kRows = 64 * kConsumers;
  static constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
  static constexpr int kStages = D == 128 ? 2 : 4;
  static constexpr bool kTakesTurns = kConsumers == 3;
  static constexpr int kProducerRegisters = D == 128 ? 40 : 32, kConsumerRegisters = D == 128 ? 232 : 160;

  static constexpr int kQueryBytes = kRows * D * 2, kKeyBytes = kKeys * D * 2, kKeyBlock = kKeys * 128;
  static constexpr int kQueries = 0, kKeysAt = 2 * kQueryBytes, kValuesAt = kKeysAt + kStages * kKeyBytes,
                       kRowsOut = kValuesAt + kStages * kKeyBytes, kBarriers = kRowsOut + kQueryBytes;
  // mbarriers: what is full, and what is empty again
  static constexpr int kQueryFull = 0, kQueryEmpty = 2, kTileFull = 4, kTileEmpty = 6, kKeyFull = 8,
                       kKeyEmpty = kKeyFull + kStages, kValueFull = kKeyEmpty + kStages,
                       kValueEmpty = kValueFull + kStages, kNearEnd = kValueEmpty + kStages,
                       kNumBarriers = kNearEnd + 1;
  using Tile = TileOfRows<kConsumers>;
  static constexpr int kTiles = (kBarriers + 8 * kNumBarriers + 15) / 16 * 16,
                       kBytes = kTiles + 2 * static_cast<int>(sizeof(Tile));
  // Listed rows are gathered once so many key tiles of the rows before are left to load: early enough that
  // nobody waits, and late enough that blocks share the last tiles evenly.
  static constexpr int kTilesAhead = 3;
  // Which rows the queries are, where they are listed.
  static constexpr int kListed = kBytes, kBytesWithList = kListed + 2 * kRows * static_cast<int>(sizeof(int));
  static_assert(kBytesWithList <= 232448, "more shared memory than a block may have");
};

/// A place in a ring of N stages, and the parity of its barriers there.
template <int N>
struct RingPlace {
  int count = 0;
  __device__ int stage() const { return count & (N - 1); }
  __device__ unsigned parity() const { return static_cast<unsigned>(count / N) & 1; }
  __device__ RingPlace next() const { return {count + 1}; }
};

#ifdef HEADWAY_WGMMA

template <class M, int D, class R>
__device__ void produce(const ForwardArgs<M, R>& args, unsigned base, typename Pipeline<D>::Tile* tiles) {
  using P = Pipeline<D>;
  const auto barrier = [&](int i) { return base + static_cast<unsigned>(P::kBarriers + 8 * i); };
  const auto load = [&](int at, int rows, const CUtensorMap& map, int full, int h, int t, int b) {
#pragma unroll
    for (int block = 0; block < D / 64; ++block)
      tma_load(base + static_cast<unsigned>(at + block * rows * 128), map, barrier(full), 64 * block, h, t,
               b);
  };
  RingPlace<P::kStages> place;
  NextTile next;
  for (RingPlace<2> turn;; ++turn.count) {
    auto& tile_of_rows = tiles[turn.stage()];
    RowsOfHead rows;
    TileRange keys;
    int q0 = 0, q1 = 0;
    if constexpr (R::kAreListed) {  // as gather_queries() describes it
      mbarrier_wait(barrier(P::kTileFull + turn.stage()), turn.parity());
      rows = tile_of_rows.rows, keys = tile_of_rows.keys;
      mbarrier_arrive(barrier(P::kTileEmpty + turn.stage()));
    } else {
      rows = rows_at<P::kRows>(args, next.index());
      q0 = rows.first, q1 = min(q0 + P::kRows, args.plan.num_queries) - 1;
      mbarrier_wait(barrier(P::kTileEmpty + turn.stage()), turn.parity() ^ 1);
      tile_of_rows.rows = rows;
      if (rows.first >= 0) {
        keys = key_tiles_of(args.plan, q0, q1);
        tile_of_rows.keys = keys;
#pragma unroll 1
        for (int i = 0; i < P::kConsumers; ++i)
          tile_of_rows.seen[i] = SeenTiles::of(args.plan, q0 + 64 * i, keys);
      }
      mbarrier_arrive(barrier(P::kTileFull + turn.stage()));
    }
    if (rows.first < 0) return;
    const int kv = args.group.quotient(rows.head);
    if constexpr (!R::kAreListed) {
      mbarrier_wait(barrier(P::kQueryEmpty + turn.stage()), turn.parity() ^ 1);
      mbarrier_expect(barrier(P::kQueryFull + turn.stage()), P::kQueryBytes);
      load(P::kQueries + turn.stage() * P::kQueryBytes, P::kRows, args.q, P::kQueryFull + turn.stage(),
           rows.head, q0, rows.batch);
    }
    for (int tile = keys.last; tile >= keys.first;
         tile = tile_before(args.plan, q0, q1, tile, keys.first), ++place.count) {
      if (R::kAreListed && tile == min(keys.first + P::kTilesAhead, keys.last))
        mbarrier_arrive(barrier(P::kNearEnd));
      const int stage = place.stage();
      mbarrier_wait(barrier(P::kKeyEmpty + stage), place.parity() ^ 1);
      mbarrier_expect(barrier(P::kKeyFull + stage), P::kKeyBytes);
      load(P::kKeysAt + stage * P::kKeyBytes, kKeys, args.k, P::kKeyFull + stage, kv, tile * kKeys,
           rows.batch);
      mbarrier_wait(barrier(P::kValueEmpty + stage), place.parity() ^ 1);
      mbarrier_expect(barrier(P::kValueFull + stage), P::kKeyBytes);
      load(P::kValuesAt + stage * P::kKeyBytes, kKeys, args.v, P::kValueFull + stage, kv, tile * kKeys,
           rows.batch);
    }
    if constexpr (!R::kAreListed) next.take(args);
  }
}

/// The warp that takes tiles of listed rows, ahead of all others: describes them, loads each query by
/// a copy of its own, and shows which rows they are. A slot without a row gets the zeros behind the last one.
template <class M, int D>
__device__ void gather_queries(const ForwardArgs<M, ListedRows>& args, unsigned base,
                               typename Pipeline<D>::Tile* tiles, int* listed) {
  using P = Pipeline<D>;
  const auto barrier = [&](int i) { return base + static_cast<unsigned>(P::kBarriers + 8 * i); };
  const int lane = threadIdx.x % kWarp;
  NextTile next;
  for (RingPlace<2> turn;; ++turn.count) {
    if (turn.count > 0) mbarrier_wait(barrier(P::kNearEnd), static_cast<unsigned>(turn.count - 1) & 1);
    RowsOfHead rows;
    do {
      next.beyond = __shfl_sync(0xffffffffu, next.beyond, 0);
      rows = rows_at<P::kRows>(args, next.index());
      if (lane == 0) next.take(args);
    } while (rows.first == kEmptyTile);
    const unsigned tile_full = barrier(P::kTileFull + turn.stage());
    auto& tile = tiles[turn.stage()];
    mbarrier_wait(barrier(P::kTileEmpty + turn.stage()), turn.parity() ^ 1);
    if (lane == 0) tile.rows = rows;
    if (rows.first < 0) {
      if (lane == 0) mbarrier_arrive(tile_full);
      return;
    }
    mbarrier_wait(barrier(P::kQueryEmpty + turn.stage()), turn.parity() ^ 1);
    const PackedRows<P::kRows> packed(args.rows_of_queries, rows.batch, rows.head);
    int* const own = listed + turn.stage() * P::kRows;
    int of_lane[P::kRows / kWarp];
#pragma unroll
    for (int i = 0; i < P::kRows / kWarp; ++i) {
      const int slot = i * kWarp + lane;
      own[slot] = of_lane[i] = packed.row(rows.first + slot, args.plan.num_queries);
    }
    __syncwarp();
    const int first_used = max(packed.padding - rows.first, 0);
    const TileRange keys = key_tiles_of(args.plan, own[first_used], own[P::kRows - 1]);
    if (lane == 0) tile.keys = keys;
    if (const int first = 64 * lane, last = first + 63; lane < P::kConsumers)
      tile.seen[lane] =
          SeenTiles::of(args.plan, own[max(first, first_used)], own[last], last >= first_used, keys);
    __syncwarp();
    const unsigned full = barrier(P::kQueryFull + turn.stage()),
                   to =
                       base + static_cast<unsigned>(P::kQueries + turn.stage() * P::kQueryBytes + lane * 128);
    if (lane == 0) mbarrier_arrive(tile_full), mbarrier_expect(full, P::kQueryBytes);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < P::kRows / kWarp; ++i)
#pragma unroll
      for (int block = 0; block < D / 64; ++block)
        tma_load(to + static_cast<unsigned>((block * P::kRows + i * kWarp) * 128), args.q, full, 64 * block,
                 rows.head, of_lane[i], rows.batch);
  }
}

/// Which row is the i-th of a warp's 16, of which lane l has rows l/4 and l/4 + 8.
__device__ inline int row_of_warp(const int (&rows)[2], int i) {
  const int from = i % 8 * 4, low = __shfl_sync(0xffffffffu, rows[0], from),
            high = __shfl_sync(0xffffffffu, rows[1], from);
  return i < 8 ? low : high;
}

template <class M, int D, class R>
__device__ void consume(const ForwardArgs<M, R>& args, unsigned base, const typename Pipeline<D>::Tile* tiles,
                        const int* listed, int warp) {
  using P = Pipeline<D>;
  const auto barrier = [&](int i) { return base + static_cast<unsigned>(P::kBarriers + 8 * i); };
  const int lane = threadIdx.x % kWarp, group = warp / 4;
  const auto release = [&](int i) {
    if (lane == 0) mbarrier_arrive(barrier(i));
  };
  // Named barrier 1 + g: it is the turn of warpgroup g to ask for products.
  const auto await_turn = [&] {
    if constexpr (P::kTakesTurns) named_barrier_wait(1 + group, 2 * kWarpgroup);
  };
  const auto give_turn = [&] {
    if constexpr (P::kTakesTurns)
      named_barrier_arrive(group == P::kConsumers - 1 ? 1 : 2 + group, 2 * kWarpgroup);
  };
  if (P::kTakesTurns && group == P::kConsumers - 1) named_barrier_arrive(1, 2 * kWarpgroup);

  const uint64_t all_queries =
      wgmma_descriptor(base + static_cast<unsigned>(P::kQueries + group * 64 * 128), 0);
  const uint64_t all_keys = wgmma_descriptor(base + P::kKeysAt, 0);
  const uint64_t all_values = wgmma_descriptor(base + P::kValuesAt, P::kKeyBlock);
  const unsigned rows_out = base + static_cast<unsigned>(P::kRowsOut + warp * 16 * D * 2);

  float sums[D / 2], scores[64];
  unsigned weights[8][4];
  RingPlace<P::kStages> place;
  const auto ask_for_scores = [&](uint64_t queries, int stage) {
    const uint64_t keys = all_keys + static_cast<uint64_t>(stage * P::kKeyBytes >> 4);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < D / 16; ++k)
      wgmma(scores, queries + static_cast<uint64_t>((k / 4 * P::kRows * 128 + k % 4 * 32) >> 4),
            keys + static_cast<uint64_t>((k / 4 * P::kKeyBlock + k % 4 * 32) >> 4), k > 0);
    wgmma_commit();
  };
  const auto ask_for_sums = [&](int stage) {
    const uint64_t values = all_values + static_cast<uint64_t>(stage * P::kKeyBytes >> 4);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 8; ++k)
      wgmma(sums, weights[k], values + static_cast<uint64_t>(k * 16 * 128 >> 4), true);
    wgmma_commit();
  };
  // Tiles that rows of other warpgroups see.
  const auto pass_over = [&] {
    mbarrier_wait(barrier(P::kKeyFull + place.stage()), place.parity());
    release(P::kKeyEmpty + place.stage());
    mbarrier_wait(barrier(P::kValueFull + place.stage()), place.parity());
    release(P::kValueEmpty + place.stage());
    await_turn();
    give_turn();
    ++place.count;
  };

  for (RingPlace<2> turn;; ++turn.count) {
    mbarrier_wait(barrier(P::kTileFull + turn.stage()), turn.parity());
    const RowsOfHead rows = tiles[turn.stage()].rows;
    const TileRange block = tiles[turn.stage()].keys;
    const SeenTiles own = tiles[turn.stage()].seen[group];
    __syncwarp();
    release(P::kTileEmpty + turn.stage());
    if (rows.first < 0) break;
    const int last_row = args.plan.num_queries - 1, q0 = rows.first, own0 = q0 + group * 64;
    const int first_row = own0 + warp % 4 * 16 + lane / 4;
    int rows_of_lane[2] = {first_row, first_row + 8};
    const uint64_t queries = all_queries + static_cast<uint64_t>(turn.stage() * P::kQueryBytes >> 4);
    const float lowest = lowest_score(args, rows.head);
    const auto before = [&](int tile) {
      return tile_before(args.plan, q0, min(q0 + P::kRows - 1, last_row), tile, block.first);
    };

    int tile = block.last;
    for (; tile > own.any.last; tile = before(tile)) pass_over();
    mbarrier_wait(barrier(P::kQueryFull + turn.stage()), turn.parity());
    if constexpr (R::kAreListed) {
      const int* const own = listed + turn.stage() * P::kRows + first_row - q0;
      rows_of_lane[0] = own[0], rows_of_lane[1] = own[8];
    }
    mbarrier_wait(barrier(P::kKeyFull + place.stage()), place.parity());
    RunningSoftmax softmax;
    float factor[2] = {1, 1};
    ask_for_scores(queries, place.stage());
    wgmma_wait<0>();
    pin_registers(scores);
    release(P::kKeyEmpty + place.stage());
    if (tile <= own.any.first) release(P::kQueryEmpty + turn.stage());
    if (!own.is_whole(args.plan, own0, tile)) mask_scores<kKeys>(scores, args.plan, rows_of_lane, tile);
    softmax.begin<kKeys>(scores, args.power, lowest);
    round_weights(scores, weights);
#pragma unroll
    for (float& sum : sums) sum = 0;

    while (tile > own.any.first) {  // the scores of the tile before this one, and the sums of this one
      tile = before(tile);
      const RingPlace<P::kStages> next = place.next();
      mbarrier_wait(barrier(P::kKeyFull + next.stage()), next.parity());
      await_turn();
      ask_for_scores(queries, next.stage());
      mbarrier_wait(barrier(P::kValueFull + place.stage()), place.parity());
      ask_for_sums(place.stage());
      give_turn();
      wgmma_wait<1>();
      pin_registers(scores);
      release(P::kKeyEmpty + next.stage());
      if (tile <= own.any.first) release(P::kQueryEmpty + turn.stage());
      if (!own.is_whole(args.plan, own0, tile)) mask_scores<kKeys>(scores, args.plan, rows_of_lane, tile);
      const bool moves = softmax.add(scores, args.power, args.limit, factor);
      wgmma_wait<0>();
      pin_registers(sums);
      release(P::kValueEmpty + place.stage());
      round_weights(scores, weights);
      if (moves) scale_rows(sums, factor);
      place = next;
    }
    mbarrier_wait(barrier(P::kValueFull + place.stage()), place.parity());
    ask_for_sums(place.stage());
    wgmma_wait<0>();
    pin_registers(sums);
    release(P::kValueEmpty + place.stage());
    ++place.count;
    while (tile > block.first) tile = before(tile), pass_over();

    const RowFactors factors = finish_rows(args, softmax, rows, rows_of_lane);
    // Of those that are listed, a lane stores 64 channels of one.
    const int listed_row = R::kAreListed ? row_of_warp(rows_of_lane, lane % 16) : 0;
    const auto store = [&](const CUtensorMap& map, const float(&factor_of_row)[2]) {
      if (R::kAreListed || lane == 0) bulk_wait_read<0>();
      __syncwarp();
      stage_rows(rows_out, 16 * 128, sums, factor_of_row);
      __syncwarp();
      if constexpr (R::kAreListed) {
        if (lane < D / 4)
          tma_store(map, rows_out + static_cast<unsigned>(lane * 128), 64 * (lane / 16), rows.head,
                    listed_row, rows.batch);
        bulk_commit();
        return;
      }
      const int first = own0 + warp % 4 * 16;
      if (lane == 0 && first <= last_row) {
#pragma unroll
        for (int part = 0; part < D / 64; ++part)
          tma_store(map, rows_out + static_cast<unsigned>(part * 16 * 128), 64 * part, rows.head, first,
                    rows.batch);
        bulk_commit();
      }
    };
    if (args.writes_y) store(args.y, factors.y);
    store(args.o, factors.o);
  }
  if (R::kAreListed || lane == 0) bulk_wait<0>();
}

#endif

template <class M, int D, class R>
__global__ void __launch_bounds__(Pipeline<D>::kThreads, 1)
    pipeline_kernel(const __grid_constant__ ForwardArgs<M, R> args) {
#ifdef HEADWAY_WGMMA
  using P = Pipeline<D>;
  extern __shared__ __align__(1024) uint4 memory[];
  const unsigned base = shared_address(memory);
  auto* const tiles = reinterpret_cast<typename P::Tile*>(reinterpret_cast<char*>(memory) + P::kTiles);
  auto* const listed = reinterpret_cast<int*>(reinterpret_cast<char*>(memory) + P::kListed);
  const int warp = uniform(static_cast<int>(threadIdx.x / kWarp));
  if (threadIdx.x == 0) {
    constexpr unsigned kReaders = 4 * P::kConsumers;  // warps
    const auto init = [&](int full, int empty, int stages, unsigned readers) {
      for (int i = 0; i < stages; ++i) {
        mbarrier_init(base + static_cast<unsigned>(P::kBarriers + 8 * (full + i)), 1);
        mbarrier_init(base + static_cast<unsigned>(P::kBarriers + 8 * (empty + i)), readers);
      }
    };
    init(P::kQueryFull, P::kQueryEmpty, 2, kReaders);
    init(P::kTileFull, P::kTileEmpty, 2, R::kAreListed ? kReaders + 1 : kReaders);
    init(P::kKeyFull, P::kKeyEmpty, P::kStages, kReaders);
    init(P::kValueFull, P::kValueEmpty, P::kStages, kReaders);
    mbarrier_init(base + static_cast<unsigned>(P::kBarriers + 8 * P::kNearEnd), 1);
    fence_mbarrier_init();
  }
  __syncthreads();
  if (warp < 4) {
    warpgroup_reg_dealloc<P::kProducerRegisters>();
    if (threadIdx.x == 0) produce<M, D>(args, base, tiles);
    if constexpr (R::kAreListed)
      if (warp == 1) gather_queries<M, D>(args, base, tiles, listed);
  } else {
    warpgroup_reg_alloc<P::kConsumerRegisters>();
    consume<M, D>(args, base, tiles, listed, warp - 4);
  }
#endif
}

}  // namespace headway::cuda::hopper
