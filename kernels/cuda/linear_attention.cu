// Linear attention that neither linear/one_pass.h nor linear_attention_tensor.cuh takes (fp32, odd widths),
// on the ordinary units: chunks of kChunk tokens, all at once but for the states between them. (A sequence of
// one token goes to linear/one_token.h.) Per head and chunk, with L_i the sum of the logarithms of the decays
// of its tokens up to and with i, and n tokens:
//
//   1. state_kernel    U_c = sum_i exp(L_n - L_i) k_i v_i^T, 64 x 64 of it per block
//   2. prefix_kernel   S_0 = state, S_{c+1} = exp(L_n) S_c + U_c, a thread per element, in place of U
//   3. rows_kernel     o_i = exp(L_i) S_c^T q_i + sum_{j<=i} exp(L_i - L_j) <q_i,k_j> v_j, 64 x 64 per block
//
// The gradients are the same three steps on other operands, for dk and dv from the last chunk to the first:
//
//   rows        X     Y     Z     state  order   result_i = scale_i X_i S + sum_j w_ij (<X_i,Y_j> + e) Z_j
//   o           q     k     v     S      j<=i
//   dq          dn    v     k     S^T    j<=i    e = dd_i, the normaliser's share
//   dk          v     dn    q     R^T    j>=i    e = dd_j
//   dv          k     q     dn    R      j>=i
//   dnorm_q,k   none  none  nk, nq       as dq and dk, where the normaliser has features of its own
//
// Exponents are those of differences of one sign, never of large positive numbers. Products and sums are
// fp32, every sum in one order. Scratch: a state per chunk. After arXiv 2401.04658 and 2312.06635.
#include "kernels/ops/linear_attention.h"

#include "kernels/cuda/linear/one_pass.h"
#include "kernels/cuda/linear/one_token.h"
#include "kernels/cuda/linear_attention_tensor.cuh"
#include "kernels/cuda/tile_product.cuh"
#include "kernels/kernel_choice.h"

namespace headway {
namespace {
using namespace cuda;

static_assert(kChunk == kTile);

/// A tensor [B,T,H,width] in a product; `divided`: its rows by the denominators.
template <class T>
struct Operand {
  const T* data = nullptr;
  int64_t width = 0;
  bool divided = false;
  bool wide = false;  // rows are whole, aligned groups of four
};
template <class T>
Operand<T> operand(const View<const T, 4>& x, bool divided = false) {
  return {x.data, x.size[3], divided, x.size[3] % 4 == 0 && is_aligned(x.data, 4 * sizeof(T))};
}

/// A chunk of a head, and the tile that a block computes of it.
struct TilePlace : Place {
  int64_t tile;

  __device__ TilePlace(const Sizes& s, int64_t tiles)
      : Place(s, blockIdx.x / tiles / s.H / s.chunks, blockIdx.x / tiles % s.H,
              blockIdx.x / tiles / s.H % s.chunks),
        tile(blockIdx.x % tiles) {}
};

/// The chunk's rows of an operand.
template <class T>
__device__ Matrix<T> rows_of(const Operand<T>& x, const Sizes& s, const Place& p, const float* factor) {
  return {x.data + p.row(s, 0) * x.width, s.H * x.width, p.count, x.width, factor, x.wide};
}

// --- 1. What each chunk adds to the state
// --------------------------------------------------------------------

/// U [B,H,chunks,F,V] = sum of weight_i x_i y_i^T, u [B,H,chunks,F] = sum of weight_i gain_i nx_i, and what
/// is left of a state after each chunk. weight: what is left of a token at the end of its chunk, or
/// (reversed) of the chunk's start at the token.
template <class T>
struct StateArgs {
  Sizes sizes;
  Decay decay;
  Operand<T> x, y, norm_x;
  const float* denominator = nullptr;  // [B,T,H], for operands that are divided
  const float* gain = nullptr;         // [B,T,H], optional: one
  bool reversed = false;
  float* states;
  float* norms;  // null without a normaliser
  float* whole;
};

template <class T>
__global__ void __launch_bounds__(kTileThreads) state_kernel(StateArgs<T> a) {
  alignas(16) __shared__ float left[kPanel], right[kPanel];
  __shared__ ChunkDecay decay;
  __shared__ float weight[kChunk], inverse[kChunk];
  const Sizes& s = a.sizes;
  const int64_t column_tiles = (s.V + kTile - 1) / kTile, row_tiles = (s.F + kTile - 1) / kTile;
  const TilePlace p(s, row_tiles * column_tiles);
  const int64_t f_first = p.tile / column_tiles * kTile, v_first = p.tile % column_tiles * kTile;
  const int i = threadIdx.x;
  decay.load(a.decay, s, p);
  __syncthreads();
  if (i < kChunk) {
    weight[i] = i >= p.count ? 0.0f : a.reversed ? decay.since_start(i) : decay.until_end(i);
    inverse[i] = i < p.count && a.y.divided ? 1 / a.denominator[p.row(s, i)] : 1.0f;
  }
  if (i == 0 && p.tile == 0) a.whole[p.state(s)] = decay.whole();

  Tile sums = {};
  const Matrix<T> x = rows_of(a.x, s, p, weight), y = rows_of(a.y, s, p, inverse);
  add_product(sums, p.count, left, right, [&](int64_t k) {
    load_columns(left, x, f_first, k);
    load_columns(right, y, v_first, k);
  });
  float* const to = a.states + p.state(s) * s.F * s.V;
#pragma unroll
  for (int r = 0; r < kOwn; ++r)
#pragma unroll
    for (int c = 0; c < kOwn; ++c)
      if (const int64_t f = f_first + own_row() + r, v = v_first + own_column() + c; f < s.F && v < s.V)
        to[f * s.V + v] = sums[r][c];

  if (!a.norms || v_first != 0 || i >= kTile || f_first + i >= s.F) return;
  float sum = 0;
  for (int t = 0; t < p.count; ++t) {
    const int64_t row = p.row(s, t);
    const float factor = weight[t] * (a.gain ? a.gain[row] : 1.0f);
    sum += factor * to_float(a.norm_x.data[row * s.F + f_first + i]);
  }
  a.norms[p.state(s) * s.F + f_first + i] = sum;
}

// --- 2. The state before each chunk
// --------------------------------------------------------------------------

struct PrefixArgs {
  Sizes sizes;
  bool reversed;  // the last chunk is the first
  const float* whole;
  float *states, *norms;  // of each chunk: what it adds becomes what it begins with
  const float* before;    // [B,H,F,V], with norms [B,H,F,V+1]; null: zero
  float* after;           // the same, or null
};

__global__ void prefix_kernel(PrefixArgs a) {
  constexpr int kAhead = 8;  // loads under way
  const Sizes& s = a.sizes;
  const int64_t width = s.V + (a.norms ? 1 : 0), per_head = s.F * width;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= s.B * s.H * per_head) return;
  const int64_t head = index / per_head, f = index % per_head / width, v = index % width;
  const int64_t step = v < s.V ? s.F * s.V : s.F;
  float* const from =
      v < s.V ? a.states + head * s.chunks * step + f * s.V + v : a.norms + head * s.chunks * step + f;
  const float* const whole = a.whole + head * s.chunks;
  float value = a.before ? a.before[index] : 0.0f;
  for (int64_t first = 0; first < s.chunks; first += kAhead) {
    float added[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (const int64_t c = first + i; c < s.chunks)
        added[i] = from[(a.reversed ? s.chunks - 1 - c : c) * step];
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (const int64_t c = first + i; c < s.chunks) {
        const int64_t chunk = a.reversed ? s.chunks - 1 - c : c;
        from[chunk * step] = value;
        value = whole[chunk] * value + added[i];
      }
  }
  if (a.after) a.after[index] = value;
}

// --- 3. Rows of results
// --------------------------------------------------------------------------------------

template <class T>
struct RowsArgs {
  Sizes sizes;
  Decay decay;
  bool reversed = false;                    // pairs (i, j) with j >= i instead of j <= i
  Operand<T> own = {}, other = {}, summed;  // X, Y, Z; no products without X and Y
  const float* states = nullptr;            // [B,H,chunks,F,V], with X only
  const float* norms = nullptr;        // [B,H,chunks,F], optional: added to X S, times e_i unless reversed
  const float* extra = nullptr;        // [B,T,H], optional: e
  const float* denominator = nullptr;  // [B,T,H], for operands that are divided
  T* to;                               // rows as wide as those of Z

  // Forward with a normaliser: the rows are divided by
  // d_i = exp(L_i) <Z_c, nq_i> + sum_{j<=i} w_ij <nq_i, nk_j> + eps, with Z_c in norm_states.
  Operand<T> norm_q = {}, norm_k = {};
  bool apart = false;  // norm_q and norm_k are not X and Y
  const float* norm_states = nullptr;
  const float* token_eps = nullptr;
  float eps = 0;
  float* new_denominator = nullptr;  // [B,T,H]; set: divide
};

/// pairs[j][i] = w_ij (<own_i, other_j> + e), zero where j may not be seen.
template <class T>
__device__ void load_pairs(float* pairs, float* left, float* right, const ChunkDecay& decay, bool reversed,
                           const Matrix<T>& own, const Matrix<T>& other, const float* extra) {
  Tile sums = {};
  add_product(sums, own.width, left, right, [&](int64_t k) {
    load_rows(left, own, 0, k);
    load_rows(right, other, 0, k);
  });
#pragma unroll
  for (int r = 0; r < kOwn; ++r)
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      const int i = own_row() + r, j = own_column() + c, earlier = reversed ? i : j, later = reversed ? j : i;
      pairs[j * kStride + i] = earlier <= later && later < decay.count
                                   ? decay.between(earlier, later) * (sums[r][c] + extra[later])
                                   : 0.0f;
    }
}

template <class T, bool Transposed>
__global__ void __launch_bounds__(kTileThreads) rows_kernel(RowsArgs<T> a) {
  alignas(16) __shared__ float left[kPanel], right[kPanel], pairs[kChunk * kStride];
  __shared__ ChunkDecay decay;
  __shared__ float scale[kChunk], inverse[kChunk], extra[kChunk], norm_dot[kChunk], factor[kChunk];
  const Sizes& s = a.sizes;
  const TilePlace p(s, (a.summed.width + kTile - 1) / kTile);
  const int64_t column_first = p.tile * kTile;
  const int i = threadIdx.x;
  decay.load(a.decay, s, p);
  __syncthreads();
  if (i < kChunk) {
    const bool inside = i < p.count;
    scale[i] = !inside ? 0.0f : a.reversed ? decay.until_end(i) : decay.since_start(i);
    inverse[i] = inside && a.denominator ? 1 / a.denominator[p.row(s, i)] : 1.0f;
    extra[i] = inside && a.extra ? a.extra[p.row(s, i)] : 0.0f;
    factor[i] = 1;
  }
  __syncthreads();
  const auto matrix = [&](const Operand<T>& x) { return rows_of(x, s, p, x.divided ? inverse : nullptr); };

  if (a.new_denominator) {
    load_pairs(pairs, left, right, decay, false, matrix(a.norm_q), matrix(a.norm_k), extra);
    const float* const Z = a.norm_states + p.state(s) * s.F;
    const int lane = threadIdx.x % kWarp;
    for (int t = threadIdx.x / kWarp; t < p.count; t += kTileThreads / kWarp) {
      const T* const q = a.norm_q.data + p.row(s, t) * s.F;
      float sum = 0;
      for (int64_t f = lane; f < s.F; f += kWarp) sum += to_float(q[f]) * Z[f];
      sum = warp_sum(sum);
      if (lane == 0) norm_dot[t] = sum;
    }
    __syncthreads();
    if (i < p.count) {
      float sum = 0;
      for (int j = 0; j <= i; ++j) sum += pairs[j * kStride + i];
      const float eps = a.token_eps ? a.token_eps[p.row(s, i)] : a.eps;
      const float denominator = scale[i] * norm_dot[i] + sum + eps;
      factor[i] = 1 / denominator;
      if (p.tile == 0) a.new_denominator[p.row(s, i)] = denominator;
    }
    __syncthreads();
  }
  const Matrix<T> own = matrix(a.own), summed = matrix(a.summed);
  if (!a.new_denominator || a.apart)
    load_pairs(pairs, left, right, decay, a.reversed, own, matrix(a.other), extra);

  Tile sums = {};
  const Matrix<float> state{
      a.states ? a.states + p.state(s) * s.F * s.V : nullptr, s.V, s.F, s.V, nullptr, s.V % 4 == 0};
  add_product(sums, own.width, left, right, [&](int64_t k) {
    load_rows(left, own, 0, k);
    if constexpr (Transposed)
      load_rows(right, state, column_first, k);
    else
      load_columns(right, state, column_first, k);
  });
#pragma unroll
  for (int c = 0; c < kOwn; ++c) {
    const int64_t column = column_first + own_column() + c;
    const float norm = a.norms && column < s.F ? a.norms[p.state(s) * s.F + column] : 0.0f;
#pragma unroll
    for (int r = 0; r < kOwn; ++r) {
      const int row = own_row() + r;
      sums[r][c] = scale[row] * (sums[r][c] + norm * (a.reversed ? 1.0f : extra[row]));
    }
  }
  for (int64_t k = 0; k < p.count; k += kDepth) {
    __syncthreads();
    load_columns(right, summed, column_first, k);
    __syncthreads();
    add_panel(sums, pairs + k * kStride, right);
  }
#pragma unroll
  for (int r = 0; r < kOwn; ++r) {
    const int row = own_row() + r;
    if (row >= p.count) continue;
    T* const to = a.to + p.row(s, row) * a.summed.width;
#pragma unroll
    for (int c = 0; c < kOwn; ++c)
      if (const int64_t column = column_first + own_column() + c; column < a.summed.width)
        to[column] = from_float<T>(sums[r][c] * factor[row]);
  }
}

// -------------------------------------------------------------------------------------------------------------

/// Runs over all chunks of all heads, a block per tile of `tiles`.
unsigned grid_of(const Sizes& s, int64_t tiles, const char* name) {
  const int64_t blocks = s.B * s.chunks * s.H * tiles;
  HEADWAY_CHECK(
      blocks <= 0x7fffffff, ShapeError,
      std::string(name) + ": " + std::to_string(blocks) + " tiles are more than the GPU kernel can take");
  return static_cast<unsigned>(blocks);
}

/// Steps 1 and 2: args.states become the state before each chunk, or its gradient after each.
template <class T>
void launch_states(const StateArgs<T>& args, const float* before, float* after, const char* name,
                   Stream& stream) {
  const Sizes& s = args.sizes;
  const int64_t tiles = ((s.F + kTile - 1) / kTile) * ((s.V + kTile - 1) / kTile);
  if (const unsigned grid = grid_of(s, tiles, name)) {
    state_kernel<T><<<grid, kTileThreads, 0, stream.native()>>>(args);
    check_launch(name);
  }
  const int64_t elements = s.B * s.H * s.F * (s.V + (args.norms ? 1 : 0));
  if (elements == 0) return;
  prefix_kernel<<<blocks_for(elements, kTileThreads), kTileThreads, 0, stream.native()>>>(
      PrefixArgs{s, args.reversed, args.whole, args.states, args.norms, before, after});
  check_launch(name);
}

template <bool Transposed, class T>
void launch_rows(const RowsArgs<T>& args, const char* name, Stream& stream) {
  const unsigned grid = grid_of(args.sizes, (args.summed.width + kTile - 1) / kTile, name);
  if (grid == 0) return;
  rows_kernel<T, Transposed><<<grid, kTileThreads, 0, stream.native()>>>(args);
  check_launch(name);
}

template <class T>
void scalar_forward(const LinearAttentionForward<T>& args, Stream& stream) {
  const auto& in = args.in;
  const Sizes sizes = sizes_of(in);
  const Decay decay{in.slope.data, in.log_decay.data};
  const Scratch<float> scratch(sizes, in.normalise, stream);
  const Operand<T> q = operand(in.q), k = operand(in.k), v = operand(in.v),
                   norm_q = in.norm_q ? operand(in.norm_q) : q, norm_k = in.norm_k ? operand(in.norm_k) : k;
  launch_states<T>({.sizes = sizes,
                    .decay = decay,
                    .x = k,
                    .y = v,
                    .norm_x = norm_k,
                    .states = scratch.states,
                    .norms = scratch.norms,
                    .whole = scratch.whole},
                   in.state.data, args.state.data, args.name, stream);
  launch_rows<false>(RowsArgs<T>{.sizes = sizes,
                                 .decay = decay,
                                 .own = q,
                                 .other = k,
                                 .summed = v,
                                 .states = scratch.states,
                                 .to = args.o.data,
                                 .norm_q = norm_q,
                                 .norm_k = norm_k,
                                 .apart = static_cast<bool>(in.norm_q),
                                 .norm_states = scratch.norms,
                                 .token_eps = in.token_eps.data,
                                 .eps = static_cast<float>(in.eps),
                                 .new_denominator = in.normalise ? args.denominator.data : nullptr},
                     args.name, stream);
}

template <class T>
void scalar_backward(const LinearAttentionBackward<T>& args, Stream& stream) {
  const auto& in = args.in;
  const Sizes sizes = sizes_of(in);
  const Decay decay{in.slope.data, in.log_decay.data};
  const Scratch<float> scratch(sizes, in.normalise, stream);
  const bool apart = static_cast<bool>(in.norm_q);
  const float* const denominator = in.normalise ? args.denominator.data : nullptr;
  const Operand<T> q = operand(in.q), k = operand(in.k), v = operand(in.v),
                   dn = operand(args.dout, in.normalise), norm_q = apart ? operand(in.norm_q) : q,
                   norm_k = apart ? operand(in.norm_k) : k;
  if (in.normalise) denominator_gradient(args, scratch.dd, stream);
  // What the normaliser adds to the gradient of its features, which are q and k unless they are apart.
  const float* const shared_norms = apart ? nullptr : scratch.norms;
  const float* const shared_dd = apart ? nullptr : scratch.dd;
  const auto of_features = [&](bool reversed, const Operand<T>& own, const Operand<T>& other,
                               const Operand<T>& summed, T* to) {
    launch_rows<true>(RowsArgs<T>{.sizes = sizes,
                                  .decay = decay,
                                  .reversed = reversed,
                                  .own = own,
                                  .other = other,
                                  .summed = summed,
                                  .states = scratch.states,
                                  .norms = shared_norms,
                                  .extra = shared_dd,
                                  .denominator = denominator,
                                  .to = to},
                      args.name, stream);
  };
  const auto of_norm_features = [&](bool reversed, const Operand<T>& summed, T* to) {
    launch_rows<true>(RowsArgs<T>{.sizes = sizes,
                                  .decay = decay,
                                  .reversed = reversed,
                                  .summed = summed,
                                  .norms = scratch.norms,
                                  .extra = scratch.dd,
                                  .to = to},
                      args.name, stream);
  };

  launch_states<T>({.sizes = sizes,
                    .decay = decay,
                    .x = k,
                    .y = v,
                    .norm_x = norm_k,
                    .states = scratch.states,
                    .norms = scratch.norms,
                    .whole = scratch.whole},
                   in.state.data, nullptr, args.name, stream);
  of_features(false, dn, v, k, args.dq.data);
  if (apart) of_norm_features(false, norm_k, args.dnorm_q.data);

  launch_states<T>({.sizes = sizes,
                    .decay = decay,
                    .x = q,
                    .y = dn,
                    .norm_x = norm_q,
                    .denominator = denominator,
                    .gain = scratch.dd,
                    .reversed = true,
                    .states = scratch.states,
                    .norms = scratch.norms,
                    .whole = scratch.whole},
                   args.dstate.data, args.dstate_in.data, args.name, stream);
  of_features(true, v, dn, q, args.dk.data);
  if (apart) of_norm_features(true, norm_q, args.dnorm_k.data);
  launch_rows<false>(RowsArgs<T>{.sizes = sizes,
                                 .decay = decay,
                                 .reversed = true,
                                 .own = k,
                                 .other = q,
                                 .summed = dn,
                                 .states = scratch.states,
                                 .denominator = denominator,
                                 .to = args.dv.data},
                     args.name, stream);
}

/// The kernels of each direction and dtype, the fastest first; the scalar ones take everything.
template <class T>
constexpr std::array<KernelOption<LinearAttentionForward<T>>, 2> kForwardKernels{
    {{"tensor-core", needs_bf16<LinearAttentionForward<T>>, nullptr},
     {"scalar", nullptr, scalar_forward<T>}}};
template <>
constexpr std::array<KernelOption<LinearAttentionForward<bf16>>, 3> kForwardKernels<bf16>{
    {{"one-pass", linear::forward_refusal, linear::forward},
     {"tensor-core", tensor::forward_refusal, tensor::forward},
     {"scalar", nullptr, scalar_forward<bf16>}}};

template <class T>
constexpr std::array<KernelOption<LinearAttentionBackward<T>>, 2> kBackwardKernels{
    {{"tensor-core", needs_bf16<LinearAttentionBackward<T>>, nullptr},
     {"scalar", nullptr, scalar_backward<T>}}};
template <>
constexpr std::array<KernelOption<LinearAttentionBackward<bf16>>, 3> kBackwardKernels<bf16>{
    {{"one-pass", linear::backward_refusal, linear::backward},
     {"tensor-core", tensor::backward_refusal, tensor::backward},
     {"scalar", nullptr, scalar_backward<bf16>}}};

/// What a sequence of one token takes, on any GPU.
template <class T>
constexpr std::array<KernelOption<LinearAttentionForward<T>>, 1> kOneTokenKernel{
    {{"one-token", nullptr, linear::one_token<T>}}};

template <class T>
void linear_attention_forward(const LinearAttentionForward<T>& args, Stream& stream) {
  if (args.in.q.size[1] == 1) return run_first(kOneTokenKernel<T>, args, stream);
  run_first(kForwardKernels<T>, args, stream);
}
template <class T>
void linear_attention_backward(const LinearAttentionBackward<T>& args, Stream& stream) {
  run_first(kBackwardKernels<T>, args, stream);
}

HEADWAY_KERNEL(cuda, linear_attention_forward<float>);
HEADWAY_KERNEL(cuda, linear_attention_forward<bf16>);
HEADWAY_KERNEL(cuda, linear_attention_backward<float>);
HEADWAY_KERNEL(cuda, linear_attention_backward<bf16>);

}  // namespace
}  // namespace headway
