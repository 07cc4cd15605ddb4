// Linear attention in bf16 on the tensor cores, for up to 128 features and values a head, where one pass does
// not take it (linear/one_pass.h); see linear_attention.cu for the formulas.
//
//   1. scan_kernel     walks a head's chunks in order, a tile of its state in registers, and leaves the state
//                      before each chunk (or its gradient after each) in bf16
//   2. output_kernel   o of one chunk
//      query_kernel    dq of one chunk
//      key_kernel      dk and dv of one chunk
//
// A warpgroup owns the chunk's 64 tokens, or 64 features of the state, as the rows of all its sums. Weights
// of pairs are rounded before they meet their rows, as softmax attention's are; normalisers are fp32
// throughout.
#pragma once

#include "kernels/cuda/linear_attention_chunks.cuh"
#include "kernels/cuda/tile/products.cuh"
#include "kernels/ops/linear_attention.h"

namespace headway::cuda::tensor {

using Rows = View<const bf16, 4>;

/// The columns of x from `first` on.
template <class E>
__device__ View<E, 4> columns_from(View<E, 4> x, int first) {
  x.data += first;
  x.size[3] -= first;
  return x;
}
/// [F,V] of one chunk as rows.
template <class E>
__device__ View<E, 4> state_rows(E* states, const Sizes& s, const Place& p) {
  return {.data = states + p.state(s) * s.F * s.V, .size = {1, s.F, 1, s.V}, .stride = {0, s.V, 0, 1}};
}

/// Row (of the calling lane's two) and column of the sums' value i of group n.
__device__ inline int row_of_lane(int half) {
  return rows_of_warp() + half * 8 + static_cast<int>(threadIdx.x) % kWarp / 4;
}
__device__ inline int column_of_lane(int n) { return n * 8 + static_cast<int>(threadIdx.x) % 4 * 2; }

// --- 1. States -------------------------------------------------------------------------------------------

/// S_{c+1} = exp(L_n) S_c + sum_i weight_i / d_i x_i y_i^T and the normaliser's share of it, with gain_i in
/// place of y_i / d_i. weight_i: what is left of a token at the end of its chunk, or (reversed, where the
/// last chunk is the first) of the chunk's start at the token.
struct ScanArgs {
  Sizes sizes;
  Decay decay;
  Rows x, y;
  const float* denominator = nullptr;  // [B,T,H], optional: one
  const float* gain = nullptr;         // [B,T,H], optional: one
  bool reversed = false;
  const float* before;     // [B,H,F,V], with norms [B,H,F,V+1]; null: zero
  float* after = nullptr;  // the same, or null
  bf16* states;            // [B,H,chunks,F,V]
  float* norms;            // [B,H,chunks,F]; null without a normaliser
};

using ScanTile = RowTile<64, kChunk>;
inline constexpr int kScanBytes = 5 * ScanTile::kBytes;  // two stages of x and y, and a state on its way out

__global__ void __launch_bounds__(kWarpgroup) scan_kernel(ScanArgs a) {
  extern __shared__ __align__(1024) uint4 memory[];
  __shared__ ChunkDecay decay;
  __shared__ float factor[kChunk], gain[kChunk];
  const auto tile = [&](int index) {
    return ScanTile{shared_address(memory) + static_cast<unsigned>(index * ScanTile::kBytes)};
  };
  const Sizes& s = a.sizes;
  const int b = static_cast<int>(blockIdx.z), h = static_cast<int>(blockIdx.y);
  const int column_tiles = static_cast<int>((s.V + 63) / 64);
  const int f_first = static_cast<int>(blockIdx.x) / column_tiles * 64,
            v_first = static_cast<int>(blockIdx.x) % column_tiles * 64;
  const Rows x = columns_from(a.x, f_first), y = columns_from(a.y, v_first);
  const int thread = static_cast<int>(threadIdx.x), chunks = static_cast<int>(s.chunks);
  const auto chunk_of = [&](int step) { return a.reversed ? chunks - 1 - step : step; };
  const auto load = [&](int step, int stage) {
    tile(2 * stage).load<kWarpgroup>(x, b, chunk_of(step) * kChunk, h);
    tile(2 * stage + 1).load<kWarpgroup>(y, b, chunk_of(step) * kChunk, h);
  };
  if (chunks > 0) load(0, 0);
  commit_copies();

  const int64_t width = s.V + (a.norms ? 1 : 0), head = (b * s.H + h) * s.F * width;
  const int f = f_first + thread;
  const bool has_norm = a.norms && v_first == 0 && thread < 64 && f < s.F;
  Sums<64> state;
  const auto each = [&](auto use) {
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = f_first + row_of_lane(i / 2), column = v_first + column_of_lane(n) + i % 2;
        if (row < s.F && column < s.V) use(state.values[n][i], head + row * width + column);
      }
  };
  if (a.before) each([&](float& value, int64_t index) { value = a.before[index]; });
  float norm = has_norm && a.before ? a.before[head + f * width + s.V] : 0.0f;

  for (int step = 0; step < chunks; ++step) {
    const int stage = uniform(step & 1);
    wait_for_stage();
    if (step + 1 < chunks) load(step + 1, stage ^ 1);
    commit_copies();
    const Place p(s, b, h, chunk_of(step));
    decay.load(a.decay, s, p);
    store_rows(columns_from(state_rows(a.states, s, p), v_first), 0, f_first, 0, tile(4), 0,
               [&](int n, int half) { return state.pair(n, half, 1); });
    if (has_norm) a.norms[p.state(s) * s.F + f] = norm;
    __syncthreads();
    if (thread < kChunk) {
      const bool inside = thread < p.count;
      const float weight = !inside ? 0.0f : a.reversed ? decay.since_start(thread) : decay.until_end(thread);
      factor[thread] = inside && a.denominator ? weight / a.denominator[p.row(s, thread)] : weight;
      gain[thread] = inside && a.gain ? weight * a.gain[p.row(s, thread)] : weight;
    }
    const float whole = decay.whole();
    __syncthreads();
    Weights<kChunk> weighted = Weights<kChunk>::of_channels(tile(2 * stage));
#pragma unroll
    for (int k = 0; k < kChunk / 16; ++k)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int token = k * 16 + r / 2 * 8 + thread % 4 * 2;
        const float2 pair = unpack_pair(weighted.values[k][r]);
        weighted.values[k][r] = round_pair(factor[token] * pair.x, factor[token + 1] * pair.y);
      }
    state.scale(0, whole);
    state.scale(1, whole);
    wgmma_fence();
    state.add(weighted, tile(2 * stage + 1));
    wgmma_commit();
    if (has_norm) {
      float added = 0;
#pragma unroll 8
      for (int i = 0; i < kChunk; ++i)
        added += gain[i] * load_shared_bf16(tile(2 * stage).at(i, thread / 8) + thread % 8 * 2);
      norm = whole * norm + added;
    }
    wgmma_wait<0>();
  }
  wait_for_copies<0>();
  if (!a.after) return;
  each([&](float value, int64_t index) { a.after[index] = value; });
  if (has_norm) a.after[head + f * width + s.V] = norm;
}

// --- 2. Rows of a chunk ------------------------------------------------------------------------------------

/// What the kernels of one chunk share; the tensors of the other kernels are not set.
struct ChunkArgs {
  Sizes sizes;
  Decay decay;
  Rows q = {}, k = {}, v = {}, dout = {};
  const bf16* states = nullptr;        // [B,H,chunks,F,V]
  const float* norms = nullptr;        // [B,H,chunks,F]; null without a normaliser
  const float* denominator = nullptr;  // [B,T,H]: d, with a normaliser
  float* new_denominator = nullptr;    // the same, of output_kernel
  const float* dd = nullptr;           // [B,T,H], with a normaliser
  const float* token_eps = nullptr;
  float eps = 0;
  View<bf16, 4> o = {}, dq = {}, dk = {}, dv = {};
};

/// Shared memory for so many tensors of features and of values, and a state.
template <int F, int V, int kFeatures, int kValues>
struct ChunkTiles {
  using Features = RowTile<F, kChunk>;
  using Values = RowTile<V, kChunk>;
  using State = RowTile<V, F>;
  static constexpr int kBytes = kFeatures * Features::kBytes + kValues * Values::kBytes + State::kBytes;
  // Of a multiprocessor, by its 227 KiB; more than four would leave too few registers.
  static constexpr int kBlocks = std::min(4, 227 * 1024 / (kBytes + 2048));
  unsigned base;

  __device__ Features features(int index) const {
    return {base + static_cast<unsigned>(index * Features::kBytes)};
  }
  __device__ Values values(int index) const {
    return {features(kFeatures).address + static_cast<unsigned>(index * Values::kBytes)};
  }
  __device__ State state() const { return {values(kValues).address}; }
};

/// The chunk that a block works on.
struct ChunkBlock {
  int b = static_cast<int>(blockIdx.z), h = static_cast<int>(blockIdx.y);
  Place p;
  int first;

  __device__ explicit ChunkBlock(const Sizes& s) : p(s, b, h, blockIdx.x), first(static_cast<int>(p.first)) {}
  template <class Tile>
  __device__ void load(const Tile& tile, const Rows& from) const {
    tile.template load<kWarpgroup>(from, b, first, h);
  }
  template <class Tile>
  __device__ void load_state(const Tile& tile, const ChunkArgs& a) const {
    tile.template load<kWarpgroup>(state_rows(a.states, a.sizes, p), 0, 0, 0);
  }
  /// Through a tile that no product reads any more, once all threads are here.
  template <class Tile, class F>
  __device__ void store(const View<bf16, 4>& to, const Tile& tile, F f) const {
    store_rows(to, b, first, h, tile, 0, f);
  }
};

/// Numbers of features or tokens that all threads read.
template <int F>
struct ChunkNumbers {
  ChunkDecay decay;
  float norm[F];  // the normaliser's state

  /// By all threads, which must wait before they read.
  __device__ void load(const ChunkArgs& a, const Place& p) {
    decay.load(a.decay, a.sizes, p);
    const int f = static_cast<int>(threadIdx.x);
    if (f < F) norm[f] = a.norms && f < a.sizes.F ? a.norms[p.state(a.sizes) * a.sizes.F + f] : 0.0f;
  }
};

template <int F, int V>
using OutputTiles = ChunkTiles<F, V, 2, 1>;

template <int F, int V>
__global__ void __launch_bounds__(kWarpgroup, OutputTiles<F, V>::kBlocks) output_kernel(ChunkArgs a) {
  extern __shared__ __align__(1024) uint4 memory[];
  __shared__ ChunkNumbers<F> numbers;
  __shared__ float norm_dot[kChunk];
  const OutputTiles<F, V> tiles{shared_address(memory)};
  const Sizes& s = a.sizes;
  const ChunkBlock block(s);
  const Place& p = block.p;
  const auto queries = tiles.features(0), keys = tiles.features(1);
  const auto values = tiles.values(0);
  block.load(queries, a.q);
  block.load(keys, a.k);
  block.load_state(tiles.state(), a);
  block.load(values, a.v);
  commit_copies();
  numbers.load(a, p);
  wait_for_stage();

  Scores<kChunk> pairs;
  Sums<V> o;
  const Weights<F> left(queries, 0);
  wgmma_fence();
  pairs.multiply(queries, 0, keys);
  wgmma_commit();
  o.add(left, tiles.state());
  wgmma_commit();
  if (a.norms) {  // <Z, q_i>, two threads a token
    const int token = static_cast<int>(threadIdx.x) / 2, part = static_cast<int>(threadIdx.x) % 2;
    float sum = 0;
#pragma unroll
    for (int piece = part * (F / 16); piece < (part + 1) * (F / 16); ++piece) {
      const uint4 eight = load_shared(queries.at(token, piece));
      const unsigned pair[] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 two = unpack_pair(pair[i]);
        sum += two.x * numbers.norm[piece * 8 + 2 * i] + two.y * numbers.norm[piece * 8 + 2 * i + 1];
      }
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    if (part == 0) norm_dot[token] = sum;
  }
  const bool fades = numbers.decay.fades();
  float total[2] = {}, factor[2] = {1, 1};
  wgmma_wait<1>();
  pairs.each([&](int i, int half, int column) {
    const int row = row_of_lane(half);
    const bool sees = column <= row && row < p.count;
    pairs[i] = sees ? fades ? pairs[i] * numbers.decay.between(column, row) : pairs[i] : 0.0f;
    total[half] += pairs[i];
  });
  const Weights<kChunk> weights(pairs);
  __syncthreads();
  wgmma_wait<0>();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = row_of_lane(half);
    const float left_of_state = i < p.count ? numbers.decay.since_start(i) : 0.0f;
    o.scale(half, left_of_state);
    const float sum = quad_sum(total[half]);
    if (!a.norms || i >= p.count) continue;
    const int64_t row = p.row(s, i);
    const float denominator = left_of_state * norm_dot[i] + sum + (a.token_eps ? a.token_eps[row] : a.eps);
    factor[half] = 1 / denominator;
    if (threadIdx.x % 4 == 0) a.new_denominator[row] = denominator;
  }
  wgmma_fence();
  o.add(weights, values);
  wgmma_commit();
  wgmma_wait<0>();
  __syncthreads();  // the values have been read
  block.store(a.o, values, [&](int n, int half) { return o.pair(n, half, factor[half]); });
}

template <int F, int V>
using QueryTiles = ChunkTiles<F, V, 1, 2>;

template <int F, int V>
__global__ void __launch_bounds__(kWarpgroup, QueryTiles<F, V>::kBlocks) query_kernel(ChunkArgs a) {
  extern __shared__ __align__(1024) uint4 memory[];
  __shared__ ChunkNumbers<F> numbers;
  const QueryTiles<F, V> tiles{shared_address(memory)};
  const Sizes& s = a.sizes;
  const ChunkBlock block(s);
  const Place& p = block.p;
  const auto keys = tiles.features(0);
  const auto dout = tiles.values(0), values = tiles.values(1);
  block.load(dout, a.dout);
  block.load(values, a.v);
  block.load_state(tiles.state(), a);
  block.load(keys, a.k);
  commit_copies();
  numbers.load(a, p);
  float inverse[2] = {1, 1}, dd[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half)
    if (const int i = row_of_lane(half); a.norms && i < p.count)
      inverse[half] = 1 / a.denominator[p.row(s, i)], dd[half] = a.dd[p.row(s, i)];
  wait_for_stage();

  Scores<kChunk> pairs;
  Scores<F> of_state;
  wgmma_fence();
  pairs.multiply(dout, 0, values);
  wgmma_commit();
  of_state.multiply(dout, 0, tiles.state());
  wgmma_commit();
  const bool fades = numbers.decay.fades();
  wgmma_wait<1>();
  pairs.each([&](int i, int half, int column) {
    const int row = row_of_lane(half);
    const bool sees = column <= row && row < p.count;
    const float gradient = pairs[i] * inverse[half] + dd[half];
    pairs[i] = sees ? fades ? gradient * numbers.decay.between(column, row) : gradient : 0.0f;
  });
  const Weights<kChunk> weights(pairs);
  wgmma_wait<0>();
  Sums<F> dq;
  of_state.each([&](int i, int half, int column) {
    const int row = row_of_lane(half);
    const float left_of_state = row < p.count ? numbers.decay.since_start(row) : 0.0f;
    dq.values[i / 4][i % 4] = left_of_state * (of_state[i] * inverse[half] + dd[half] * numbers.norm[column]);
  });
  wgmma_fence();
  dq.add(weights, keys);
  wgmma_commit();
  wgmma_wait<0>();
  __syncthreads();  // the keys have been read
  block.store(a.dq, keys, [&](int n, int half) { return dq.pair(n, half, 1); });
}

template <int F, int V>
using KeyTiles = ChunkTiles<F, V, 2, 2>;

template <int F, int V>
__global__ void __launch_bounds__(kWarpgroup, KeyTiles<F, V>::kBlocks) key_kernel(ChunkArgs a) {
  extern __shared__ __align__(1024) uint4 memory[];
  __shared__ ChunkNumbers<F> numbers;
  __shared__ float inverse[kChunk], dd[kChunk];
  const KeyTiles<F, V> tiles{shared_address(memory)};
  const Sizes& s = a.sizes;
  const ChunkBlock block(s);
  const Place& p = block.p;
  const auto queries = tiles.features(0), keys = tiles.features(1);
  const auto dout = tiles.values(0), values = tiles.values(1);
  block.load(queries, a.q);
  block.load(keys, a.k);
  block.load(dout, a.dout);
  block.load(values, a.v);
  block.load_state(tiles.state(), a);
  commit_copies();
  numbers.load(a, p);
  if (const int i = static_cast<int>(threadIdx.x); i < kChunk) {
    const bool divides = a.norms && i < p.count;
    inverse[i] = divides ? 1 / a.denominator[p.row(s, i)] : 1.0f;
    dd[i] = divides ? a.dd[p.row(s, i)] : 0.0f;
  }
  wait_for_stage();

  // Rows are keys here, and columns the queries that see them.
  Scores<kChunk> of_value, of_key;
  wgmma_fence();
  of_value.multiply(keys, 0, queries);
  wgmma_commit();
  of_key.multiply(values, 0, dout);
  wgmma_commit();
  const bool fades = numbers.decay.fades();
  wgmma_wait<0>();
  of_value.each([&](int i, int half, int column) {
    const int row = row_of_lane(half);
    const bool sees = row <= column && column < p.count;
    const float weight = !sees ? 0.0f : fades ? numbers.decay.between(row, column) : 1.0f;
    of_value[i] = sees ? weight * of_value[i] * inverse[column] : 0.0f;
    of_key[i] = sees ? weight * (of_key[i] * inverse[column] + dd[column]) : 0.0f;
  });
  const Weights<kChunk> in_dv(of_value), in_dk(of_key);
  float left_of_token[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = row_of_lane(half);
    left_of_token[half] = row < p.count ? numbers.decay.until_end(row) : 0.0f;
  }
  Sums<V> dv;
  const Weights<F> left(keys, 0);
  wgmma_fence();
  dv.add(left, tiles.state());
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int half = 0; half < 2; ++half) dv.scale(half, left_of_token[half]);
  Scores<F> of_state;
  wgmma_fence();
  dv.add(in_dv, dout);
  wgmma_commit();
  of_state.multiply(values, 0, tiles.state());
  wgmma_commit();
  wgmma_wait<0>();
  Sums<F> dk;
  of_state.each([&](int i, int half, int column) {
    dk.values[i / 4][i % 4] = left_of_token[half] * (of_state[i] + numbers.norm[column]);
  });
  wgmma_fence();
  dk.add(in_dk, queries);
  wgmma_commit();
  wgmma_wait<0>();
  __syncthreads();  // keys and values have been read
  block.store(a.dk, keys, [&](int n, int half) { return dk.pair(n, half, 1); });
  block.store(a.dv, values, [&](int n, int half) { return dv.pair(n, half, 1); });
}

// ------------------------------------------------------------------------------------------------------------

inline constexpr int64_t kWidest = 128;

/// Why these kernels do not take the inputs.
inline std::string input_refusal(const LinearAttentionInputs<bf16>& in) {
  constexpr int64_t kMostOfGrid = 65535;
  if (in.norm_q) return "the normaliser has features of its own";
  if (const int64_t widest = std::max(in.q.size[3], in.v.size[3]); widest > kWidest)
    return "a head has " + std::to_string(widest) + " features or values, more than " +
           std::to_string(kWidest);
  if (const int64_t most = std::max(in.q.size[0], in.q.size[2]); most > kMostOfGrid)
    return "there are " + std::to_string(most) + " sequences or heads, more than " +
           std::to_string(kMostOfGrid);
  return first_row_refusal(NamedRows{"q", in.q}, NamedRows{"k", in.k}, NamedRows{"v", in.v});
}

inline std::string forward_refusal(const LinearAttentionForward<bf16>& args, const Stream&) {
  std::string refusal = input_refusal(args.in);
  return refusal.empty() ? first_row_refusal(NamedRows{"o", args.o}) : refusal;
}
inline std::string backward_refusal(const LinearAttentionBackward<bf16>& args, const Stream&) {
  std::string refusal = input_refusal(args.in);
  return refusal.empty() ? first_row_refusal(NamedRows{"dout", args.dout}, NamedRows{"dq", args.dq},
                                             NamedRows{"dk", args.dk}, NamedRows{"dv", args.dv})
                         : refusal;
}

inline void launch_scan(const ScanArgs& args, const char* name, Stream& stream) {
  const Sizes& s = args.sizes;
  const dim3 grid(blocks_for(s.F, 64) * blocks_for(s.V, 64), static_cast<unsigned>(s.H),
                  static_cast<unsigned>(s.B));
  if (s.B * s.H * s.F == 0) return;
  allow_shared(scan_kernel, kScanBytes, name);
  scan_kernel<<<grid, kWarpgroup, kScanBytes, stream.native()>>>(args);
  check_launch(name);
}

/// Calls run with the widths of tiles that hold features and values.
template <class Run>
void with_widths(const Sizes& s, Run run) {
  if (s.F <= 64 && s.V <= 64) return run.template operator()<64, 64>();
  if (s.V <= 64) return run.template operator()<128, 64>();
  run.template operator()<128, 128>();
}

/// A block per chunk of every head.
template <class Tiles, class Kernel>
void launch_chunks(Kernel kernel, const ChunkArgs& args, const char* name, Stream& stream) {
  const Sizes& s = args.sizes;
  if (s.B * s.H * s.chunks == 0) return;
  allow_shared(kernel, Tiles::kBytes, name);
  const dim3 grid(static_cast<unsigned>(s.chunks), static_cast<unsigned>(s.H), static_cast<unsigned>(s.B));
  kernel<<<grid, kWarpgroup, Tiles::kBytes, stream.native()>>>(args);
  check_launch(name);
}

inline void forward(const LinearAttentionForward<bf16>& args, Stream& stream) {
  const auto& in = args.in;
  const Sizes sizes = sizes_of(in);
  const Decay decay{in.slope.data, in.log_decay.data};
  const Scratch<bf16> scratch(sizes, in.normalise, stream);
  launch_scan({.sizes = sizes,
               .decay = decay,
               .x = in.k,
               .y = in.v,
               .before = in.state.data,
               .after = args.state.data,
               .states = scratch.states,
               .norms = scratch.norms},
              args.name, stream);
  const ChunkArgs chunks{.sizes = sizes,
                         .decay = decay,
                         .q = in.q,
                         .k = in.k,
                         .v = in.v,
                         .states = scratch.states,
                         .norms = scratch.norms,
                         .new_denominator = args.denominator.data,
                         .token_eps = in.token_eps.data,
                         .eps = static_cast<float>(in.eps),
                         .o = args.o};
  with_widths(sizes, [&]<int F, int V>() {
    launch_chunks<OutputTiles<F, V>>(output_kernel<F, V>, chunks, args.name, stream);
  });
}

inline void backward(const LinearAttentionBackward<bf16>& args, Stream& stream) {
  const auto& in = args.in;
  const Sizes sizes = sizes_of(in);
  const Decay decay{in.slope.data, in.log_decay.data};
  const Scratch<bf16> scratch(sizes, in.normalise, stream);
  const float* const denominator = in.normalise ? args.denominator.data : nullptr;
  if (in.normalise) denominator_gradient(args, scratch.dd, stream);
  const ChunkArgs chunks{.sizes = sizes,
                         .decay = decay,
                         .q = in.q,
                         .k = in.k,
                         .v = in.v,
                         .dout = args.dout,
                         .states = scratch.states,
                         .norms = scratch.norms,
                         .denominator = denominator,
                         .dd = scratch.dd,
                         .dq = args.dq,
                         .dk = args.dk,
                         .dv = args.dv};
  launch_scan({.sizes = sizes,
               .decay = decay,
               .x = in.k,
               .y = in.v,
               .before = in.state.data,
               .states = scratch.states,
               .norms = scratch.norms},
              args.name, stream);
  with_widths(sizes, [&]<int F, int V>() {
    launch_chunks<QueryTiles<F, V>>(query_kernel<F, V>, chunks, args.name, stream);
  });
  launch_scan({.sizes = sizes,
               .decay = decay,
               .x = in.q,
               .y = args.dout,
               .denominator = denominator,
               .gain = scratch.dd,
               .reversed = true,
               .before = args.dstate.data,
               .after = args.dstate_in.data,
               .states = scratch.states,
               .norms = scratch.norms},
              args.name, stream);
  with_widths(sizes, [&]<int F, int V>() {
    launch_chunks<KeyTiles<F, V>>(key_kernel<F, V>, chunks, args.name, stream);
  });
}

}  // namespace headway::cuda::tensor
