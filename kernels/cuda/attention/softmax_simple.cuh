// Softmax attention on the ordinary floating-point units, for every variant, slot, dtype and head dim up to
// 256: the fp32 mode, and what the tensor core kernels are compared with. Memory is O(T); no atomics, so bits
// repeat.
//
// A warp owns rows of one side (queries forward and for dq, keys for dk and dv) and streams tiles of 32 of
// the other through shared memory: lane j holds the pair of its row with the j-th of the tile, and then
// channels lane, lane + 32,
// ... of the row's sums.
#pragma once

#include <cmath>

#include "kernels/cuda/attention/score.cuh"
#include "kernels/cuda/rows.cuh"

namespace headway::cuda::simple {

inline constexpr int kTile = 32, kWarps = 8, kRowsPerWarp = 2;
inline constexpr int kRows = kWarps * kRowsPerWarp;
inline constexpr int kMaxHeadDim = 256, kPerLane = kMaxHeadDim / kWarp;

/// rows [kTile, Dh + 1] = from[b, first..first + kTile, h], zeros behind the last.
template <class T>
__device__ void load_tile(float* rows, const View<const T, 4>& from, int b, int first, int h) {
  const int Dh = static_cast<int>(from.size[3]);
  for (int i = threadIdx.x; i < kTile * Dh; i += blockDim.x) {
    const int row = i / Dh, d = i % Dh;
    rows[row * (Dh + 1) + d] = first + row < from.size[1] ? to_float(from(b, first + row, h, d)) : 0.0f;
  }
}

/// Of the calling warp's own row and the tile's row of this lane.
__device__ inline float dot(const float* own, const float* tile, int Dh) {
  const float* const other = tile + (threadIdx.x % kWarp) * (Dh + 1);
  float sum = 0;
  for (int d = 0; d < Dh; ++d) sum += own[d] * other[d];
  return sum;
}

/// sums[c] += sum over the lanes' weights of weight * tile row, for the lane's channels.
__device__ inline void add_rows(float (&sums)[kPerLane], float weight, const float* tile, int Dh) {
  const int lane = threadIdx.x % kWarp;
  for (int j = 0; j < kTile; ++j) {
    const float w = __shfl_sync(0xffffffffu, weight, j);
    if (w == 0) continue;
#pragma unroll
    for (int c = 0; c < kPerLane; ++c)
      if (const int d = lane + c * kWarp; d < Dh) sums[c] += w * tile[j * (Dh + 1) + d];
  }
}

template <class V, class T>
__global__ void __launch_bounds__(kWarps* kWarp) forward_kernel(SoftmaxForward<V, T> a) {
  extern __shared__ float memory[];
  const int Dh = static_cast<int>(a.q.size[3]), Dv = static_cast<int>(a.v.size[3]),
            lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  float *const keys = memory, *const values = keys + kTile * (Dh + 1), *const own = values + kTile * (Dv + 1);
  const Pairs<V, SoftmaxForward<V, T>> pairs(a, blockIdx.z, blockIdx.y);
  const int first = static_cast<int>(blockIdx.x) * kRows, T_ = static_cast<int>(a.q.size[1]);
  const int b = pairs.batch, h = pairs.head;
  for (int i = threadIdx.x; i < kRows * Dh; i += blockDim.x)
    own[i] = first + i / Dh < T_ ? to_float(a.q(b, first + i / Dh, h, i % Dh)) : 0.0f;

  float sums[kRowsPerWarp][kPerLane] = {}, visible[kRowsPerWarp][kPerLane] = {};
  float largest[kRowsPerWarp], total[kRowsPerWarp];
  for (int r = 0; r < kRowsPerWarp; ++r) {
    largest[r] = HasLogSumExp<V> ? -INFINITY : 0.0f;
    total[r] = 0;
    if constexpr (has(V::slots, Slots::sink)) largest[r] = a.slots.sink(h), total[r] = 1;
  }
  const IndexRange range = pairs.plan.keys_of(first, min(first + kRows, T_) - 1);
  for (int tile = range.first / kTile * kTile; tile < range.last; tile += kTile) {
    __syncthreads();
    load_tile(keys, a.k, b, tile, pairs.kv);
    load_tile(values, a.v, b, tile, pairs.kv);
    __syncthreads();
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const int t = first + warp * kRowsPerWarp + r, j = tile + lane;
      if (t >= T_ || !pairs.computes(t)) continue;
      const bool sees = j < a.k.size[1] && pairs.sees(t, j);
      const float raw = dot(own + (warp * kRowsPerWarp + r) * Dh, keys, Dh) * static_cast<float>(a.scale);
      const float logit = sees ? pairs.logit(raw, t, j) : -INFINITY;
      float weight;
      if constexpr (HasLogSumExp<V>) {
        const float next = fmaxf(largest[r], warp_max(logit));
        weight = sees ? expf(logit - next) : 0.0f;
        const float factor = largest[r] == next ? 1.0f : expf(largest[r] - next);
        total[r] = total[r] * factor + warp_sum(weight);
        largest[r] = next;
        for (float& sum : sums[r]) sum *= factor;
      } else {
        weight = sees ? pairs.weight(logit) : 0.0f;
        total[r] += warp_sum(weight);
      }
      add_rows(sums[r], weight * pairs.kept(t, j), values, Dv);
      if constexpr (has(V::slots, Slots::row_bias)) add_rows(visible[r], sees ? 1.0f : 0.0f, values, Dv);
    }
  }
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const int t = first + warp * kRowsPerWarp + r;
    if (t >= T_) continue;
    const bool computes = pairs.computes(t);
    if constexpr (!V::Weight::is_normalised) total[r] = 1;
    // A sum of zero means a row without keys. A sum that is NaN is not zero, so it reaches the output.
    const bool is_empty = total[r] == 0 || !computes;
    const float inverse = is_empty ? 0.0f : 1 / total[r];
    const float row_scale = computes ? pairs.row_scale(t) : 0.0f,
                row_bias = computes ? pairs.row_bias(t) : 0.0f;
    for (int c = 0; c < kPerLane; ++c) {
      const int d = lane + c * kWarp;
      if (d >= Dv) continue;
      const float y = sums[r][c] * inverse;
      a.o(b, t, h, d) = from_float<T>(row_scale * y + row_bias * visible[r][c]);
      if (kScalesRows<V> && a.y) a.y(b, t, h, d) = from_float<T>(y);
    }
    if (lane == 0) a.log_sum_exp(b, h, t) = is_empty ? -INFINITY : largest[r] + logf(total[r]);
  }
}

/// What both backward kernels need of a pair.
struct PairGradient {
  float weight;  // Z_ij P_ij
  float da, ds;  // gradients at the softmax's input and at the scaled score
  Learned<float> dlearned;
};

/// row_dot: D_i = G_i.Y_i
template <class V, class Args>
__device__ PairGradient pair_gradient(const Pairs<V, Args>& pairs, float raw, float dp, float log_sum_exp,
                                      float row_dot, int t, int j) {
  const auto exp = [](float x) { return expf(x); };
  const auto [weight, slope] = pair_weight<V>(pairs.logit(raw, t, j), row_norm<V>(log_sum_exp, exp), exp);
  const float kept = pairs.kept(t, j), centre = V::Weight::is_normalised ? row_dot : 0.0f;
  const float da = slope * pairs.row_scale(t) * (kept * dp - centre);
  const ScoreSlopes<float> slopes = pairs.slopes(raw, t, j);
  return {kept * weight,
          da,
          da * slopes.score,
          {da * slopes.learned.head, da * slopes.learned.row, da * slopes.learned.key}};
}

inline constexpr int kRowLanes = 8;

/// row_dots [B,H,T]; 8 lanes per row, rows in the order of memory, V channels an access.
template <class V, class T, int kPack>
__global__ void row_dot_kernel(SoftmaxBackward<V, T> a, float* row_dots) {
  const int64_t T_ = a.q.size[1], H = a.q.size[2], Dv = a.v.size[3];
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kRowLanes;
  const int64_t b = row / (H * T_), t = row / H % T_, h = row % H;
  const bool exists = b < a.q.size[0];
  float sum = 0;
  if (exists)
    for (int64_t d = threadIdx.x % kRowLanes * kPack; d < Dv; d += kRowLanes * kPack) {
      float dout[kPack], y[kPack];
      load(&a.dout(b, t, h, d), dout);
      load(&a.y(b, t, h, d), y);
#pragma unroll
      for (int v = 0; v < kPack; ++v) sum += dout[v] * y[v];
    }
#pragma unroll
  for (int offset = kRowLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (!exists || threadIdx.x % kRowLanes != 0) return;
  const Pairs<V, SoftmaxBackward<V, T>> pairs(a, static_cast<int>(b), static_cast<int>(h));
  row_dots[(b * H + h) * T_ + t] = row_dot_of<V>(sum, pairs.row_scale(static_cast<int>(t)));
}

/// dsink[h] = - sum over b, t of exp(sink - LSE) r D; a block per head. row_dots [B,H,T]: D.
template <class V, class T>
__global__ void sink_kernel(SoftmaxBackward<V, T> a, View<const float, 3> row_dots) {
  const int64_t T_ = a.q.size[1];
  const int h = static_cast<int>(blockIdx.x);
  float sum = 0;
  for (int64_t i = threadIdx.x; i < a.q.size[0] * T_; i += blockDim.x) {
    const Pairs<V, SoftmaxBackward<V, T>> pairs(a, static_cast<int>(i / T_), h);
    const int t = static_cast<int>(i % T_);
    if (pairs.computes(t))
      sum -=
          expf(a.slots.sink(h) - a.log_sum_exp(i / T_, h, t)) * pairs.row_scale(t) * row_dots(i / T_, h, t);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) a.dslots.sink(h) = sum;
}

/// Gradients of the parameters of one head, that the rows of a block add up: an array for each of its warps.
template <class V, class T>
struct HeadParameterSums {
  const SoftmaxBackward<V, T>& a;
  float* sums;  // [kWarps, number of parameters], in shared memory
  int count = V::num_head_parameters(a.params);

  __device__ HeadParameterSums(const SoftmaxBackward<V, T>& args, float* memory) : a(args), sums(memory) {
    if constexpr (has(V::slots, Slots::head_parameter))
      for (int i = threadIdx.x; i < kWarps * count; i += blockDim.x) sums[i] = 0;
  }
  /// Adds what the lanes of a warp have for their pairs, in the order of the lanes.
  __device__ void add(float gradient, Coord at) const {
    const int lane = threadIdx.x % kWarp;
    float* const own = sums + threadIdx.x / kWarp * count;
    if (count == 1) {
      gradient = warp_sum(gradient);
      if (lane == 0) own[0] += gradient;
      return;
    }
    const int index = parameter_index<V>(a.params, at);
    for (int j = 0; j < kWarp; ++j) {
      const float value = __shfl_sync(0xffffffffu, gradient, j);
      const int to = __shfl_sync(0xffffffffu, index, j);
      if (to % kWarp == lane) own[to] += value;
    }
  }
  /// parts [B,H,blocks of rows,number of parameters]
  __device__ void store(float* parts) const {
    __syncthreads();
    const int64_t block =
        (static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    for (int p = threadIdx.x; p < count; p += blockDim.x) {
      float sum = 0;
      for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp * count + p];
      parts[block * count + p] = sum;
    }
  }
};

/// dhead_parameter[h, p] from the parts of `blocks` blocks of each sequence; a block per element.
template <class V, class T>
__global__ void head_parameter_kernel(SoftmaxBackward<V, T> a, const float* parts, int blocks) {
  const int h = static_cast<int>(blockIdx.x), p = static_cast<int>(blockIdx.y);
  float sum = 0;
  for (int64_t i = threadIdx.x; i < a.q.size[0] * blocks; i += blockDim.x)
    sum += parts[((i / blocks * a.q.size[2] + h) * blocks + i % blocks) * gridDim.y + p];
  sum = block_sum(sum);
  if (threadIdx.x == 0) a.dslots.head_parameter(h, p) = sum;
}

template <class V, class T>
__global__ void __launch_bounds__(kWarps* kWarp)
    query_kernel(SoftmaxBackward<V, T> a, const float* row_dots, float* head_parts) {
  extern __shared__ float memory[];
  const int Dh = static_cast<int>(a.q.size[3]), Dv = static_cast<int>(a.v.size[3]),
            lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  float *const keys = memory, *const values = keys + kTile * (Dh + 1),
               *const own_q = values + kTile * (Dv + 1), *const own_g = own_q + kRows * Dh;
  const Pairs<V, SoftmaxBackward<V, T>> pairs(a, blockIdx.z, blockIdx.y);
  const int first = static_cast<int>(blockIdx.x) * kRows, T_ = static_cast<int>(a.q.size[1]);
  const int b = pairs.batch, h = pairs.head;
  const float scale = static_cast<float>(a.scale);
  for (int i = threadIdx.x; i < kRows * Dh; i += blockDim.x) {
    const int t = first + i / Dh;
    own_q[i] = t < T_ ? to_float(a.q(b, t, h, i % Dh)) : 0.0f;
  }
  for (int i = threadIdx.x; i < kRows * Dv; i += blockDim.x) {
    const int t = first + i / Dv;
    own_g[i] = t < T_ ? to_float(a.dout(b, t, h, i % Dv)) : 0.0f;
  }
  [[maybe_unused]] const HeadParameterSums<V, T> of_head(a, own_g + kRows * Dv);
  float dq[kRowsPerWarp][kPerLane] = {}, dbias[kRowsPerWarp] = {}, dparameter[kRowsPerWarp] = {};
  const IndexRange range = pairs.plan.keys_of(first, min(first + kRows, T_) - 1);
  for (int tile = range.first / kTile * kTile; tile < range.last; tile += kTile) {
    __syncthreads();
    load_tile(keys, a.k, b, tile, pairs.kv);
    load_tile(values, a.v, b, tile, pairs.kv);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const int row = warp * kRowsPerWarp + r, t = first + row, j = tile + lane;
      if (t >= T_ || !pairs.computes(t)) continue;
      const int64_t index = (static_cast<int64_t>(b) * a.q.size[2] + h) * T_ + t;
      const float raw = dot(own_q + row * Dh, keys, Dh) * scale, dp = dot(own_g + row * Dv, values, Dv);
      PairGradient g{};
      if (j < a.k.size[1] && pairs.sees(t, j)) {
        g = pair_gradient(pairs, raw, dp, a.log_sum_exp(b, h, t), row_dots[index], t, j);
        dbias[r] += dp;
        dparameter[r] += g.dlearned.row;
      }
      add_rows(dq[r], g.ds, keys, Dh);
      if constexpr (has(V::slots, Slots::head_parameter)) of_head.add(g.dlearned.head, pairs.at(t, j));
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const int t = first + warp * kRowsPerWarp + r;
    if (t >= T_) continue;
    for (int c = 0; c < kPerLane; ++c)
      if (const int d = lane + c * kWarp; d < Dh) a.dq(b, t, h, d) = from_float<T>(scale * dq[r][c]);
    const float sum = warp_sum(dbias[r]);
    [[maybe_unused]] float of_parameter;
    if constexpr (has(V::slots, Slots::row_parameter)) of_parameter = warp_sum(dparameter[r]);
    if (lane != 0) continue;
    if constexpr (has(V::slots, Slots::row_parameter))
      if (a.dslots.row_parameter) a.dslots.row_parameter(b, h, t) = of_parameter;
    if (a.dslots.row_bias) a.dslots.row_bias(b, h, t) = sum;
    if (a.dslots.row_scale)
      a.dslots.row_scale(b, h, t) =
          pairs.computes(t) ? row_dots[(static_cast<int64_t>(b) * a.q.size[2] + h) * T_ + t] : 0.0f;
  }
  if constexpr (has(V::slots, Slots::head_parameter)) of_head.store(head_parts);
}

template <class V, class T>
__global__ void __launch_bounds__(kWarps* kWarp, 3)
    key_kernel(SoftmaxBackward<V, T> a, const float* row_dots) {
  extern __shared__ float memory[];
  const int Dh = static_cast<int>(a.q.size[3]), Dv = static_cast<int>(a.v.size[3]),
            lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  float *const queries = memory, *const douts = queries + kTile * (Dh + 1),
               *const own_k = douts + kTile * (Dv + 1), *const own_v = own_k + kRows * Dh;
  const int first = static_cast<int>(blockIdx.x) * kRows, Tk = static_cast<int>(a.k.size[1]),
            T_ = static_cast<int>(a.q.size[1]);
  const int b = static_cast<int>(blockIdx.z), kv = static_cast<int>(blockIdx.y);
  const int group = static_cast<int>(a.q.size[2] / a.k.size[2]);
  const float scale = static_cast<float>(a.scale);
  for (int i = threadIdx.x; i < kRows * Dh; i += blockDim.x) {
    const int j = first + i / Dh;
    own_k[i] = j < Tk ? to_float(a.k(b, j, kv, i % Dh)) : 0.0f;
  }
  for (int i = threadIdx.x; i < kRows * Dv; i += blockDim.x) {
    const int j = first + i / Dv;
    own_v[i] = j < Tk ? to_float(a.v(b, j, kv, i % Dv)) : 0.0f;
  }
  float dk[kRowsPerWarp][kPerLane] = {}, dv[kRowsPerWarp][kPerLane] = {}, ddelta[kRowsPerWarp] = {},
        dparameter[kRowsPerWarp] = {};
  for (int h = kv * group; h < (kv + 1) * group; ++h) {
    const Pairs<V, SoftmaxBackward<V, T>> pairs(a, b, h);
    const IndexRange range = pairs.plan.rows_of(first, min(first + kRows, Tk) - 1);
    for (int tile = range.first / kTile * kTile; tile < range.last; tile += kTile) {
      __syncthreads();
      load_tile(queries, a.q, b, tile, h);
      load_tile(douts, a.dout, b, tile, h);
      __syncthreads();
      const int t = tile + lane;
      const bool computes = t < T_ && pairs.computes(t);
      const float log_sum_exp = computes ? a.log_sum_exp(b, h, t) : 0.0f;
      const float row_dot = computes ? row_dots[(static_cast<int64_t>(b) * a.q.size[2] + h) * T_ + t] : 0.0f;
      for (int r = 0; r < kRowsPerWarp; ++r) {
        const int row = warp * kRowsPerWarp + r, j = first + row;
        if (j >= Tk) continue;
        const float raw = dot(own_k + row * Dh, queries, Dh) * scale, dp = dot(own_v + row * Dv, douts, Dv);
        float ds = 0, weight = 0;
        if (computes && pairs.sees(t, j)) {
          const PairGradient g = pair_gradient(pairs, raw, dp, log_sum_exp, row_dot, t, j);
          ds = g.ds;
          weight = pairs.row_scale(t) * g.weight + pairs.row_bias(t);
          ddelta[r] += g.da;
          dparameter[r] += g.dlearned.key;
        }
        add_rows(dk[r], ds, queries, Dh);
        add_rows(dv[r], weight, douts, Dv);
      }
    }
  }
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const int j = first + warp * kRowsPerWarp + r;
    if (j >= Tk) continue;
    for (int c = 0; c < kPerLane; ++c) {
      const int d = lane + c * kWarp;
      if (d < Dh) a.dk(b, j, kv, d) = from_float<T>(scale * dk[r][c]);
      if (d < Dv) a.dv(b, j, kv, d) = from_float<T>(dv[r][c]);
    }
    const float sum = warp_sum(ddelta[r]);
    if (lane == 0 && a.dslots.key_bias) a.dslots.key_bias(b, kv, j) = sum;
    if constexpr (has(V::slots, Slots::key_parameter)) {
      const float of_parameter = warp_sum(dparameter[r]);
      if (lane == 0 && a.dslots.key_parameter) a.dslots.key_parameter(b, kv, j) = of_parameter;
    }
  }
}

inline void check_head_dims(const char* name, int64_t key_dim, int64_t value_dim) {
  const int64_t head_dim = std::max(key_dim, value_dim);
  HEADWAY_CHECK(head_dim <= kMaxHeadDim, ShapeError,
                std::string(name) + ": a head of " + std::to_string(head_dim) +
                    " channels is wider than the " + std::to_string(kMaxHeadDim) + " the GPU kernels take");
}

/// Shared memory for a tile of each width, and a block's own rows of so many channels in all.
inline int shared_bytes(int64_t key_dim, int64_t value_dim, int64_t own) {
  return static_cast<int>((kTile * (key_dim + 1) + kTile * (value_dim + 1) + kRows * own) *
                          static_cast<int64_t>(sizeof(float)));
}

inline dim3 grid_of(int64_t rows, int64_t heads, int64_t batch) {
  return dim3(blocks_for(rows, kRows), static_cast<unsigned>(heads), static_cast<unsigned>(batch));
}

template <class V, class T>
void forward(const SoftmaxForward<V, T>& args, Stream& stream) {
  const auto& q = args.q.size;
  const int64_t Dh = q[3], Dv = args.v.size[3];
  check_head_dims(args.name, Dh, Dv);
  const int shared = shared_bytes(Dh, Dv, Dh);
  allow_shared(forward_kernel<V, T>, shared, args.name);
  forward_kernel<V, T><<<grid_of(q[1], q[2], q[0]), kWarps * kWarp, shared, stream.native()>>>(args);
  check_launch(args.name);
}

/// dsink where it is asked for.
template <class V, class T>
void sum_sink_gradients(const SoftmaxBackward<V, T>& args, const View<const float, 3>& row_dots,
                        Stream& stream) {
  if constexpr (has(V::slots, Slots::sink)) {
    if (!args.dslots.sink) return;
    sink_kernel<<<static_cast<unsigned>(args.q.size[2]), 512, 0, stream.native()>>>(args, row_dots);
    check_launch(args.name);
  }
}

/// What the kernels of backward share, in the stream's scratch memory.
struct BackwardScratch {
  float* row_dots;    // [B,H,T]
  float* head_parts;  // [B,H,blocks of rows,parameters of a head]
};

/// Fills row_dots, and the gradients that need nothing else. block_rows: of the kernel that owns queries.
template <class V, class T>
BackwardScratch prepare_backward(const SoftmaxBackward<V, T>& args, int block_rows, Stream& stream) {
  const auto& q = args.q.size;
  const int64_t rows = q[0] * q[1] * q[2];
  const int64_t parts = has(V::slots, Slots::head_parameter)
                            ? q[0] * q[2] * blocks_for(q[1], block_rows) * V::num_head_parameters(args.params)
                            : 0;
  auto* const row_dots =
      reinterpret_cast<float*>(stream.scratch(static_cast<size_t>(rows + parts) * sizeof(float)).data());
  constexpr int kPack = 16 / sizeof(T);
  const bool wide = moves_in_packs<kPack>(args.dout) && moves_in_packs<kPack>(args.y);
  const auto kernel = wide ? row_dot_kernel<V, T, kPack> : row_dot_kernel<V, T, 1>;
  kernel<<<blocks_for(rows * kRowLanes, 256), 256, 0, stream.native()>>>(args, row_dots);
  check_launch(args.name);
  sum_sink_gradients(args, {row_dots, {q[0], q[2], q[1]}, {q[2] * q[1], q[1], 1}}, stream);
  return {row_dots, row_dots + rows};
}

/// dhead_parameter where it is asked for.
template <class V, class T>
void sum_head_parameters(const SoftmaxBackward<V, T>& args, const float* parts, int block_rows,
                         Stream& stream) {
  if constexpr (has(V::slots, Slots::head_parameter)) {
    if (!args.dslots.head_parameter) return;
    const dim3 grid(static_cast<unsigned>(args.q.size[2]),
                    static_cast<unsigned>(V::num_head_parameters(args.params)));
    head_parameter_kernel<<<grid, 128, 0, stream.native()>>>(
        args, parts, static_cast<int>(blocks_for(args.q.size[1], block_rows)));
    check_launch(args.name);
  }
}

template <class V, class T>
void backward(const SoftmaxBackward<V, T>& args, Stream& stream) {
  const auto& q = args.q.size;
  const int64_t Dh = q[3], Dv = args.v.size[3];
  check_head_dims(args.name, Dh, Dv);
  const auto [row_dots, head_parts] = prepare_backward(args, kRows, stream);
  const int shared = shared_bytes(Dh, Dv, Dh + Dv);
  const int of_head = has(V::slots, Slots::head_parameter)
                          ? kWarps * V::num_head_parameters(args.params) * static_cast<int>(sizeof(float))
                          : 0;
  allow_shared(query_kernel<V, T>, shared + of_head, args.name);
  allow_shared(key_kernel<V, T>, shared, args.name);
  query_kernel<V, T><<<grid_of(q[1], q[2], q[0]), kWarps * kWarp, shared + of_head, stream.native()>>>(
      args, row_dots, head_parts);
  sum_head_parameters(args, head_parts, kRows, stream);
  key_kernel<V, T>
      <<<grid_of(args.k.size[1], args.k.size[2], q[0]), kWarps * kWarp, shared, stream.native()>>>(args,
                                                                                                   row_dots);
  check_launch(args.name);
}

}  // namespace headway::cuda::simple
