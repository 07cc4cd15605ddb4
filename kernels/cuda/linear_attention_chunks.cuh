// Chunks of a linear attention's tokens, and what is left of what within one.
#pragma once

#include "kernels/cuda/rows.cuh"
#include "kernels/ops/linear_attention.h"

namespace headway::cuda {

inline constexpr int kChunk = 64;  // tokens

struct Sizes {
  int64_t B, T, H, F, V, chunks;
};
struct Decay {
  const float* slope;      // [H] or null
  const float* log_decay;  // [B,T,H] or null
};

/// One chunk of one head.
struct Place {
  int64_t b, h, chunk, first;
  int count;

  __device__ Place(const Sizes& s, int64_t b_, int64_t h_, int64_t chunk_)
      : b(b_),
        h(h_),
        chunk(chunk_),
        first(chunk * kChunk),
        count(static_cast<int>(min(static_cast<int64_t>(kChunk), s.T - first))) {}
  /// Of the chunk's token i among all rows.
  __device__ int64_t row(const Sizes& s, int64_t i) const { return (b * s.T + first + i) * s.H + h; }
  __device__ int64_t state(const Sizes& s) const { return (b * s.H + h) * s.chunks + chunk; }
};

/// How much is left of what, within a chunk; in shared memory.
struct ChunkDecay {
  bool per_token;
  float slope;
  int count;
  float log_sum[kChunk];  // of the decays up to and with each token

  /// By all threads, which must wait before they read.
  __device__ void load(const Decay& d, const Sizes& s, const Place& p) {
    const int lane = threadIdx.x;
    if (lane >= kWarp) return;
    const float head_slope = d.slope ? d.slope[p.h] : 0.0f;
    if (lane == 0) per_token = d.log_decay != nullptr, slope = head_slope, count = p.count;
    const int i = 2 * lane;
    if (!d.log_decay) {
      log_sum[i] = -head_slope * static_cast<float>(i + 1);
      log_sum[i + 1] = -head_slope * static_cast<float>(i + 2);
      return;
    }
    const float one = i < p.count ? d.log_decay[p.row(s, i)] : 0.0f;
    const float two = i + 1 < p.count ? d.log_decay[p.row(s, i + 1)] : 0.0f;
    float sum = one + two;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const float other = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += other;
    }
    const float before = __shfl_up_sync(0xffffffffu, sum, 1);
    log_sum[i] = lane == 0 ? one : before + one;
    log_sum[i + 1] = sum;
  }
  __device__ bool fades() const { return per_token || slope != 0; }
  /// Of what an earlier token left, at a later one.
  __device__ float between(int earlier, int later) const {
    return expf(per_token ? log_sum[later] - log_sum[earlier] : -slope * static_cast<float>(later - earlier));
  }
  __device__ float since_start(int i) const { return expf(log_sum[i]); }
  __device__ float until_end(int i) const { return between(i, count - 1); }
  __device__ float whole() const { return expf(log_sum[count - 1]); }
};

template <class T>
Sizes sizes_of(const LinearAttentionInputs<T>& in) {
  const auto& q = in.q.size;
  return {q[0], q[1], q[2], q[3], in.v.size[3], (q[1] + kChunk - 1) / kChunk};
}

/// In the stream's scratch memory: states [B,H,chunks,F,V] of S, and fp32 numbers, of which norms and dd are
/// null without a normaliser.
template <class S>
struct Scratch {
  S* states;
  float *norms, *whole, *dd;  // [B,H,chunks,F], [B,H,chunks], [B,T,H]

  Scratch(const Sizes& s, bool normalise, Stream& stream) {
    const int64_t heads = s.B * s.H * s.chunks, num_norms = normalise ? heads * s.F : 0,
                  num_dd = normalise ? s.B * s.T * s.H : 0;
    const size_t of_states = (static_cast<size_t>(heads * s.F * s.V) * sizeof(S) + 15) / 16 * 16;
    std::byte* const memory =
        stream.scratch(of_states + static_cast<size_t>(num_norms + heads + num_dd) * sizeof(float)).data();
    states = reinterpret_cast<S*>(memory);
    whole = reinterpret_cast<float*>(memory + of_states);
    norms = normalise ? whole + heads : nullptr;
    dd = normalise ? whole + heads + num_norms : nullptr;
  }
};

inline constexpr int kDotLanes = 8;  // of a row

/// dd [rows] = -<dout, o> / d, in packs of P.
template <class T, int P>
__global__ void __launch_bounds__(256)
    denominator_gradient_kernel(const T* dout, const T* o, const float* denominator, int64_t rows, int64_t V,
                                float* dd) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kDotLanes;
  const int lane = static_cast<int>(threadIdx.x) % kDotLanes;
  float sum = 0;
  for (int64_t v = lane * P; v < V && row < rows; v += kDotLanes * P) {
    float left[P], right[P];
    load(dout + row * V + v, left);
    load(o + row * V + v, right);
#pragma unroll
    for (int i = 0; i < P; ++i) sum += left[i] * right[i];
  }
#pragma unroll
  for (int offset = kDotLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (lane == 0 && row < rows) dd[row] = -sum / denominator[row];
}

template <class T>
void denominator_gradient(const LinearAttentionBackward<T>& args, float* dd, Stream& stream) {
  constexpr int P = 16 / sizeof(T);
  const int64_t V = args.in.v.size[3], rows = args.denominator.numel();
  if (rows == 0) return;
  const bool wide = V % P == 0 && is_aligned(args.dout.data, 16) && is_aligned(args.o.data, 16);
  const auto kernel = wide ? denominator_gradient_kernel<T, P> : denominator_gradient_kernel<T, 1>;
  kernel<<<blocks_for(rows * kDotLanes, 256), 256, 0, stream.native()>>>(args.dout.data, args.o.data,
                                                                         args.denominator.data, rows, V, dd);
  check_launch(args.name);
}

}  // namespace headway::cuda
