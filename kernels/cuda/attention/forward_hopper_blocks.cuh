// The forward pass on Hopper for heads of 64 and short rows of keys: blocks of one warpgroup and 64 rows,
// three of a multiprocessor, that load for themselves. One block multiplies while the others take powers.
//
// The first thread asks for keys and values two tiles ahead, also of the next tile of rows: what a stage held
// has been read when the products with it have been waited for, so no barrier says that it is empty. Rows
// leave through the stage of the last values, whose refill waits for them.
#pragma once

#include "kernels/cuda/attention/forward_hopper_rows.cuh"

namespace headway::cuda::hopper {

struct Blocks {
  static constexpr int D = 64, kRows = 64, kThreads = kWarpgroup, kPerMultiprocessor = 3;
  static constexpr int kQueryBytes = kRows * D * 2, kKeyBytes = kKeys * D * 2;
  static constexpr int kQueries = 0, kKeysAt = kQueryBytes, kValuesAt = kKeysAt + 2 * kKeyBytes,
                       kBarriers = kValuesAt + 2 * kKeyBytes;
  static constexpr int kQueryFull = 0, kKeyFull = 1, kValueFull = 3, kNumBarriers = 5;  // mbarriers

  /// A tile of rows whose keys are being loaded, for all threads.
  struct Tile {
    SeenTiles keys;
    RowsOfHead rows;
    int kv;
    int end;  // of the keys seen: one behind the last
  };
  static constexpr int kTilesAhead = 4;  // one in work, and two key tiles ahead are at most two more
  static constexpr int kTiles = (kBarriers + 8 * kNumBarriers + 15) / 16 * 16,
                       kBytes = kTiles + kTilesAhead * static_cast<int>(sizeof(Tile));
  static_assert(kPerMultiprocessor * (kBytes + 1024) <= 233472, "more shared memory than there is");
};

/// What the first thread asks for.
template <class M>
struct Loader {
  using B = Blocks;
  /// A walk down the key tiles of one tile of rows after another.
  struct Cursor {
    int tile = 0;
    int left = 0;    // of this tile of rows; negative: none is left in all
    int begun = 0;   // tiles of rows
    int loaded = 0;  // key tiles
  };
  const ForwardArgs<M>& args;
  unsigned base;
  B::Tile* tiles;
  NextTile next = {};
  Cursor keys = {}, values = {};

  __device__ unsigned barrier(int i) const { return base + static_cast<unsigned>(B::kBarriers + 8 * i); }
  __device__ B::Tile& tile_of_rows(int index) const { return tiles[index & (B::kTilesAhead - 1)]; }
  __device__ int last_row(int first) const { return min(first + B::kRows, args.plan.num_queries) - 1; }

  __device__ void load(Cursor& cursor, const CUtensorMap& map, int at, int full) {
    if (cursor.left == 0) {
      const B::Tile& begins = tile_of_rows(cursor.begun++);
      cursor.tile = begins.keys.any.last;
      cursor.left = begins.rows.first < 0 ? -1 : begins.keys.any.last - begins.keys.any.first + 1;
    }
    if (cursor.left < 0) return;
    const B::Tile& now = tile_of_rows(cursor.begun - 1);
    const int stage = cursor.loaded++ & 1;
    mbarrier_expect(barrier(full + stage), B::kKeyBytes);
    tma_load(base + static_cast<unsigned>(at + stage * B::kKeyBytes), map, barrier(full + stage), 0, now.kv,
             cursor.tile * kKeys, now.rows.batch);
    const int before =
        tile_before(args.plan, now.rows.first, last_row(now.rows.first), cursor.tile, now.keys.any.first);
    cursor.left -= cursor.tile - before;
    cursor.tile = before;
  }
  /// Finds the next tile of rows where load_keys() begins with one; takes time.
  __device__ void prepare() {
    if (keys.left != 0) return;
    B::Tile& begins = tile_of_rows(keys.begun);
    begins.rows = rows_at<B::kRows>(args, next.index());
    const int q0 = begins.rows.first, q1 = last_row(q0);
    if (q0 < 0) return;
    next.take(args);
    begins.kv = args.group.quotient(begins.rows.head);
    begins.keys = SeenTiles::of(args.plan, q0, key_tiles_of(args.plan, q0, q1));
    begins.end = args.plan.keys_of(q0, q1).last;
  }
  /// The next key tile, after prepare().
  __device__ void load_keys() { load(keys, args.k, B::kKeysAt, B::kKeyFull); }
  __device__ void load_values() { load(values, args.v, B::kValuesAt, B::kValueFull); }
  __device__ void load_queries(int index) {
    const RowsOfHead& rows = tile_of_rows(index).rows;
    if (rows.first < 0) return;
    mbarrier_expect(barrier(B::kQueryFull), B::kQueryBytes);
    tma_load(base + B::kQueries, args.q, barrier(B::kQueryFull), 0, rows.head, rows.first, rows.batch);
  }
};

template <class M>
__global__ void __launch_bounds__(Blocks::kThreads, Blocks::kPerMultiprocessor)
    blocks_kernel(const __grid_constant__ ForwardArgs<M> args) {
#ifdef HEADWAY_WGMMA
  using B = Blocks;
  extern __shared__ __align__(1024) uint4 memory[];
  const unsigned base = shared_address(memory);
  auto* const tiles = reinterpret_cast<B::Tile*>(reinterpret_cast<char*>(memory) + B::kTiles);
  const bool loads = threadIdx.x == 0;
  const int warp = uniform(static_cast<int>(threadIdx.x / kWarp)), lane = threadIdx.x % kWarp;
  Loader<M> loader{args, base, tiles};
  if (loads) {
    for (int i = 0; i < B::kNumBarriers; ++i) mbarrier_init(loader.barrier(i), 1);
    fence_mbarrier_init();
    loader.prepare();
    loader.load_keys();
    loader.load_queries(0);
    loader.load_values();
    loader.prepare();
    loader.load_keys();
    loader.load_values();
  }
  __syncthreads();

  const uint64_t queries = wgmma_descriptor(base + B::kQueries, 0);
  const uint64_t all_keys = wgmma_descriptor(base + B::kKeysAt, 0);
  const uint64_t all_values = wgmma_descriptor(base + B::kValuesAt, kKeys * 128);
  float sums[32], scores[64];
  unsigned weights[8][4];
  int place = 0;  // key tiles done
  const auto keys_at = [&](int count) {
    return all_keys + static_cast<uint64_t>((count & 1) * B::kKeyBytes >> 4);
  };
  const auto ask_for_scores = [&](int count) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      wgmma(scores, queries + static_cast<uint64_t>(2 * k), keys_at(count) + static_cast<uint64_t>(2 * k),
            k > 0);
    wgmma_commit();
  };
  const auto ask_for_half_of_the_scores = [&](int count) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      wgmma_half(scores, queries + static_cast<uint64_t>(2 * k),
                 keys_at(count) + static_cast<uint64_t>(2 * k), k > 0);
    wgmma_commit();
  };
  const auto await = [&](int full, int count) {
    mbarrier_wait(loader.barrier(full + (count & 1)), static_cast<unsigned>(count >> 1) & 1);
  };
  const auto ask_for_sums = [&](auto steps) {
    const uint64_t values = all_values + static_cast<uint64_t>((place & 1) * B::kKeyBytes >> 4);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < decltype(steps)::value; ++k)
      wgmma(sums, weights[k], values + static_cast<uint64_t>(k * 16 * 128 >> 4), true);
    wgmma_commit();
  };

  for (int i = 0;; ++i) {
    const B::Tile& here = tiles[i & (B::kTilesAhead - 1)];
    const int q0 = uniform(here.rows.first);
    if (q0 < 0) break;
    const SeenTiles keys = here.keys;
    const int first = uniform(keys.any.first), q1 = min(q0 + B::kRows, args.plan.num_queries) - 1;
    int tile = uniform(keys.any.last);
    const int first_row = q0 + warp * 16 + lane / 4, rows_of_lane[2] = {first_row, first_row + 8};
    const bool sees_half = uniform(here.end) <= tile * kKeys + kKeys / 2;
    const float lowest = lowest_score(args, here.rows.head);
    RunningSoftmax softmax;
    float factor[2] = {1, 1};
#pragma unroll
    for (float& sum : sums) sum = 0;
    mbarrier_wait(loader.barrier(B::kQueryFull), static_cast<unsigned>(i) & 1);
    await(B::kKeyFull, place);
    const auto load_meanwhile = [&] {
      if (!loads) return;
      if (i > 0) bulk_wait_read<0>(), loader.load_values();  // whose stage the rows before left through
      loader.prepare();
    };
    if (sees_half) {
      ask_for_half_of_the_scores(place);
      load_meanwhile();
      wgmma_wait<0>();
      pin_registers(scores);
      mask_scores<kKeys / 2>(scores, args.plan, rows_of_lane, tile);
      softmax.begin<kKeys / 2>(scores, args.power, lowest);
    } else {
      ask_for_scores(place);
      load_meanwhile();
      wgmma_wait<0>();
      pin_registers(scores);
      if (!keys.is_whole(args.plan, q0, tile)) mask_scores<kKeys>(scores, args.plan, rows_of_lane, tile);
      softmax.begin<kKeys>(scores, args.power, lowest);
    }
    if (loads) {
      loader.load_keys();
      if (tile <= first) loader.load_queries(i + 1);
    }
    round_weights(scores, weights);
    const auto step = [&](auto steps) {  // the scores of the tile before this one, and the sums of this one
      tile = tile_before(args.plan, q0, q1, tile, first);
      await(B::kKeyFull, place + 1);
      ask_for_scores(place + 1);
      await(B::kValueFull, place);
      ask_for_sums(steps);
      if (loads) loader.prepare();
      wgmma_wait<1>();
      pin_registers(scores);
      if (loads) {
        loader.load_keys();
        if (tile <= first) loader.load_queries(i + 1);
      }
      if (!keys.is_whole(args.plan, q0, tile)) mask_scores<kKeys>(scores, args.plan, rows_of_lane, tile);
      const bool moves = softmax.add(scores, args.power, args.limit, factor);
      wgmma_wait<0>();
      pin_registers(sums);
      if (loads) loader.load_values();
      round_weights(scores, weights);
      if (moves) scale_rows(sums, factor);
      ++place;
    };
    if (sees_half && tile > first) step(std::integral_constant<int, 4>{});
    while (tile > first) step(std::integral_constant<int, 8>{});
    await(B::kValueFull, place);
    ask_for_sums(std::integral_constant<int, 8>{});
    wgmma_wait<0>();
    pin_registers(sums);

    const RowsOfHead rows = here.rows;
    const RowFactors factors = finish_rows(args, softmax, rows, rows_of_lane);
    __syncthreads();  // every warp has read the values
    const unsigned out = base + static_cast<unsigned>(B::kValuesAt + (place & 1) * B::kKeyBytes);
    ++place;
    const unsigned of_warp = static_cast<unsigned>(warp * 16 * 128);
    stage_rows(out + of_warp, 0, sums, factors.o);
    if (args.writes_y) stage_rows(out + B::kQueryBytes + of_warp, 0, sums, factors.y);
    __syncthreads();
    if (loads) {
      tma_store(args.o, out, 0, rows.head, q0, rows.batch);
      if (args.writes_y) tma_store(args.y, out + B::kQueryBytes, 0, rows.head, q0, rows.batch);
      bulk_commit();
    }
  }
  if (loads) bulk_wait<0>();
#endif
}

}  // namespace headway::cuda::hopper
