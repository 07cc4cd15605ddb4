// Linear attention of one token:
//
//   S <- decay S + k v^T,  Z <- decay Z + nk          o = q S, or q S / (<nq, Z> + eps)
//
// All that takes time are the bytes of the state. A block has up to kColumns columns of a head; a warp takes
// some rows of them at a time, all of whose loads are under way together, and its lanes have neighbouring
// columns. Z, the state's last column, is a row a lane. Sums over rows: of a warp, then over the warps in
// their order, so that bits repeat.
#include "kernels/cuda/linear/one_token.h"

#include "kernels/cuda/launch.cuh"

namespace headway::cuda::linear {
namespace {

constexpr int kWarps = 8, kLoads = 16;  // kLoads: of a lane at a time

template <class T>
struct OneTokenArgs {
  const T *q, *k, *v, *norm_q, *norm_k;  // [B,H,F], v [B,H,V]; norm_q null: q and k
  const float *slope, *log_decay, *token_eps;
  const float* before;  // null: zero
  float* after;
  T* o;
  float* denominator;  // null without a normaliser
  float eps;
  int H, F, V, width;  // width: of a row of the state
};

template <class T, int kLaneColumns>
__global__ void __launch_bounds__(kWarps* kWarp, 4) one_token_kernel(OneTokenArgs<T> a) {
  constexpr int kColumns = kLaneColumns * kWarp, kRows = kLoads / kLaneColumns;
  __shared__ float sums[kWarps][kColumns], norms[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp,
            first_column = static_cast<int>(blockIdx.y) * kColumns;
  const int64_t head = blockIdx.x, row_of_head = head * a.F;
  const float decay = a.slope ? expf(-a.slope[head % a.H]) : a.log_decay ? expf(a.log_decay[head]) : 1.0f;
  const bool has_norm = a.denominator != nullptr, apart = a.norm_q != nullptr;
  const T *const norm_q = apart ? a.norm_q : a.q, *const norm_k = apart ? a.norm_k : a.k;
  const float* const before = a.before ? a.before + row_of_head * a.width : nullptr;
  float* const after = a.after + row_of_head * a.width;
  int columns[kLaneColumns];
  float v[kLaneColumns], sum[kLaneColumns] = {}, norm = 0;
#pragma unroll
  for (int c = 0; c < kLaneColumns; ++c) {
    columns[c] = first_column + c * kWarp + lane;
    v[c] = columns[c] < a.V ? to_float(a.v[head * a.V + columns[c]]) : 0.0f;
  }
  for (int first = warp * kRows; first < a.F; first += kWarps * kRows) {
    float state[kRows][kLaneColumns], z = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int c = 0; c < kLaneColumns; ++c)
        state[r][c] = before && first + r < a.F && columns[c] < a.V
                          ? __ldcs(before + (first + r) * a.width + columns[c])
                          : 0.0f;
    const int own = first + lane;  // row of this lane
    const bool has_row = lane < kRows && own < a.F;
    if (has_norm && has_row && before) z = __ldcs(before + own * a.width + a.V);
    const float q = has_row ? to_float(a.q[row_of_head + own]) : 0.0f,
                k = has_row ? to_float(a.k[row_of_head + own]) : 0.0f;
    if (has_norm && has_row) {
      z = decay * z + to_float(norm_k[row_of_head + own]);
      norm += to_float(norm_q[row_of_head + own]) * z;
      if (blockIdx.y == 0) __stcs(after + own * a.width + a.V, z);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float k_of_row = __shfl_sync(0xffffffffu, k, r), q_of_row = __shfl_sync(0xffffffffu, q, r);
#pragma unroll
      for (int c = 0; c < kLaneColumns; ++c) {
        const float next = decay * state[r][c] + k_of_row * v[c];
        sum[c] += q_of_row * next;
        if (first + r < a.F && columns[c] < a.V) __stcs(after + (first + r) * a.width + columns[c], next);
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kLaneColumns; ++c) sums[warp][c * kWarp + lane] = sum[c];
  norm = warp_sum(norm);
  if (lane == 0) norms[warp] = norm;
  __syncthreads();
  float denominator = 1;
  if (has_norm) {
    denominator = a.token_eps ? a.token_eps[head] : a.eps;
    for (int w = 0; w < kWarps; ++w) denominator += norms[w];
    if (threadIdx.x == 0 && blockIdx.y == 0) a.denominator[head] = denominator;
  }
  const int column = static_cast<int>(threadIdx.x);
  if (column >= kColumns || first_column + column >= a.V) return;
  float o = 0;
  for (int w = 0; w < kWarps; ++w) o += sums[w][column];
  a.o[head * a.V + first_column + column] = from_float<T>(o / denominator);
}

}  // namespace

template <class T>
void one_token(const LinearAttentionForward<T>& args, Stream& stream) {
  const auto& in = args.in;
  const int64_t heads = in.q.size[0] * in.q.size[2], F = in.q.size[3], V = in.v.size[3];
  if (heads == 0) return;
  const OneTokenArgs<T> a{.q = in.q.data,
                          .k = in.k.data,
                          .v = in.v.data,
                          .norm_q = in.norm_q.data,
                          .norm_k = in.norm_k.data,
                          .slope = in.slope.data,
                          .log_decay = in.log_decay.data,
                          .token_eps = in.token_eps.data,
                          .before = in.state.data,
                          .after = args.state.data,
                          .o = args.o.data,
                          .denominator = in.normalise ? args.denominator.data : nullptr,
                          .eps = static_cast<float>(in.eps),
                          .H = static_cast<int>(in.q.size[2]),
                          .F = static_cast<int>(F),
                          .V = static_cast<int>(V),
                          .width = static_cast<int>(in.state_width())};
  const auto run = [&]<int kLaneColumns>() {
    const dim3 grid(static_cast<unsigned>(heads), blocks_for(V, kLaneColumns * kWarp));
    one_token_kernel<T, kLaneColumns><<<grid, kWarps * kWarp, 0, stream.native()>>>(a);
  };
  if (V <= 2 * kWarp)
    run.template operator()<2>();
  else
    run.template operator()<4>();
  check_launch(args.name);
}

template void one_token<float>(const LinearAttentionForward<float>&, Stream&);
template void one_token<bf16>(const LinearAttentionForward<bf16>&, Stream&);

}  // namespace headway::cuda::linear
