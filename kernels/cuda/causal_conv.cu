// Four taps, the usual number: a thread has four neighbouring channels and walks a run of tokens, with what
// the taps reach in registers, and in backward a few tokens further, so that memory is touched once.
// Otherwise, and for the gradient of a history: a thread per token and channel; backward first turns dy into
// the gradient of z where SiLU follows, once for all taps. The weight's gradient is summed over blocks of
// rows, then over blocks.
#include "kernels/ops/causal_conv.h"

#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/rows.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 256;

__device__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

/// x[t,c] of sequence b; t may lie in the history, or before it.
template <class T>
__device__ float value_at(const CausalConvInputs<T>& in, int64_t b, int64_t t, int64_t c) {
  const int64_t C = in.x.size[2], before = in.weight.size[1] - 1;
  if (t >= 0) return to_float(in.x.data[(b * in.x.size[1] + t) * C + c]);
  return in.history && t >= -before ? to_float(in.history.data[(b * before + before + t) * C + c]) : 0.0f;
}

/// z[t,c]
template <class T>
__device__ float convolved(const CausalConvInputs<T>& in, int64_t b, int64_t t, int64_t c) {
  const int64_t K = in.weight.size[1];
  float sum = 0;
  for (int64_t j = 0; j < K; ++j)
    sum += to_float(in.weight.data[c * K + j]) * value_at(in, b, t - (K - 1) + j, c);
  return sum;
}

template <class T>
__global__ void conv_forward_kernel(CausalConvForward<T> a) {
  const int64_t C = a.in.x.size[2], length = a.in.x.size[1];
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= a.in.x.numel()) return;
  const int64_t row = index / C;
  const float z = convolved(a.in, row / length, row % length, index % C);
  a.y.data[index] = from_float<T>(a.in.silu ? z * sigmoid(z) : z);
}

/// dz [B,T,C] = dy silu'(z)
template <class T>
__global__ void silu_gradient_kernel(CausalConvBackward<T> a, float* dz) {
  const int64_t C = a.in.x.size[2], length = a.in.x.size[1];
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= a.in.x.numel()) return;
  const int64_t row = index / C;
  const float z = convolved(a.in, row / length, row % length, index % C), s = sigmoid(z);
  dz[index] = to_float(a.dy.data[index]) * s * (1 + z * (1 - s));
}

/// dx, and dhistory where it is wanted; Z is T, or float where SiLU follows.
template <class T, class Z>
__global__ void rows_gradient_kernel(CausalConvBackward<T> a, const Z* dz) {
  const int64_t C = a.in.x.size[2], length = a.in.x.size[1], K = a.in.weight.size[1];
  const int64_t before = a.dhistory ? K - 1 : 0, rows = before + length;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= a.in.x.size[0] * rows * C) return;
  const int64_t c = index % C, b = index / C / rows, t = index / C % rows - before;
  float sum = 0;
  for (int64_t j = 0; j < K; ++j)
    if (const int64_t reader = t + K - 1 - j; reader >= 0 && reader < length)
      sum += to_float(a.in.weight.data[c * K + j]) * to_float(dz[(b * length + reader) * C + c]);
  T& to = t >= 0 ? a.dx.data[(b * length + t) * C + c] : a.dhistory.data[(b * before + before + t) * C + c];
  to = from_float<T>(sum);
}

constexpr int kColumns = 32, kRows = 8;  // of a block of threads
constexpr int64_t kRowsPerBlock = 256;

/// partial [blocks,C,K]
template <class T, class Z>
__global__ void weight_gradient_kernel(CausalConvInputs<T> in, const Z* dz, float* partial) {
  __shared__ float sums[kRows][kColumns];
  const int64_t C = in.x.size[2], length = in.x.size[1], K = in.weight.size[1], N = in.x.size[0] * length;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kRowsPerBlock;
  const int64_t last = min(first + kRowsPerBlock, N);
  for (int64_t j = 0; j < K; ++j) {
    float sum = 0;
    for (int64_t n = first + threadIdx.y; n < last && c < C; n += kRows)
      sum += to_float(dz[n * C + c]) * value_at(in, n / length, n % length - (K - 1) + j, c);
    __syncthreads();  // the sums of the tap before have been read
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || c >= C) continue;
#pragma unroll
    for (int r = 1; r < kRows; ++r) sum += sums[r][threadIdx.x];
    partial[(blockIdx.y * C + c) * K + j] = sum;
  }
}

// --- Four taps -------------------------------------------------------------------------------------------

constexpr int kTaps = 4, V = 4;  // V channels of a thread
constexpr int kRunsOfBlock = 8;  // of tokens, by a warp each
constexpr int kForwardRun = 16, kBackwardRun = 32;
static_assert(kForwardRun % kTaps == 0 && kBackwardRun % kTaps == 0);

template <class T>
bool has_packs(const CausalConvInputs<T>& in, std::initializer_list<const void*> others) {
  bool aligned = true;
  for (const void* const data :
       {static_cast<const void*>(in.x.data), static_cast<const void*>(in.history.data),
        static_cast<const void*>(in.weight.data)})
    aligned = aligned && is_aligned(data, V * sizeof(T));
  for (const void* const data : others) aligned = aligned && is_aligned(data, V * sizeof(T));
  return aligned && in.weight.size[1] == kTaps && in.x.size[2] % V == 0;
}

/// Tokens first to last - 1 of sequence b, channels from c on.
struct Run {
  int64_t b, c;
  int first, last;
  bool exists;

  __device__ Run(int64_t B, int64_t length, int64_t C, int tokens) {
    const int64_t of_sequence = (length + tokens - 1) / tokens;
    const int64_t index = static_cast<int64_t>(blockIdx.y) * kRunsOfBlock + threadIdx.y;
    b = index / of_sequence;
    c = (static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x) * V;
    first = static_cast<int>(index % of_sequence) * tokens;
    last = static_cast<int>(min(static_cast<int64_t>(first + tokens), length));
    exists = b < B && c < C;
  }
};

/// x[t, c..], which may lie in the history; zero before it and behind the last token.
template <class T>
__device__ Packed<T, V> read_token(const CausalConvInputs<T>& in, const Run& run, int t) {
  const int64_t length = in.x.size[1], C = in.x.size[2];
  Packed<T, V> packed;
  if (t >= length) return packed;
  if (t >= 0)
    packed.read(in.x.data + (run.b * length + t) * C + run.c);
  else if (in.history && t > -kTaps)
    packed.read(in.history.data + (run.b * (kTaps - 1) + kTaps - 1 + t) * C + run.c);
  return packed;
}

/// What kTaps tokens at a time are computed from: x[i + j] belongs to token i and tap j.
template <class T>
struct Window {
  float weight[kTaps][V], x[2 * kTaps - 1][V];

  __device__ Window(const CausalConvInputs<T>& in, const Run& run) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      float taps[kTaps];
      load(in.weight.data + (run.c + v) * kTaps, taps);
#pragma unroll
      for (int j = 0; j < kTaps; ++j) weight[j][v] = taps[j];
    }
#pragma unroll
    for (int i = 0; i < kTaps - 1; ++i) read_token(in, run, run.first - (kTaps - 1) + i).unpack(x[i]);
  }
  /// Tokens t.. of kTaps.
  __device__ void set(const Packed<T, V> (&tokens)[kTaps]) {
#pragma unroll
    for (int i = 0; i < kTaps; ++i) tokens[i].unpack(x[kTaps - 1 + i]);
  }
  __device__ float z(int i, int v) const {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kTaps; ++j) sum += weight[j][v] * x[i + j][v];
    return sum;
  }
  __device__ void go_on() {
#pragma unroll
    for (int i = 0; i < kTaps - 1; ++i)
#pragma unroll
      for (int v = 0; v < V; ++v) x[i][v] = x[kTaps + i][v];
  }
};

template <class T>
__global__ void __launch_bounds__(kRunsOfBlock* kWarp) runs_forward_kernel(CausalConvForward<T> a) {
  const int64_t length = a.in.x.size[1], C = a.in.x.size[2];
  const Run run(a.in.x.size[0], length, C, kForwardRun);
  if (!run.exists) return;
  Window<T> window(a.in, run);
  for (int t = run.first; t < run.last; t += kTaps) {
    Packed<T, V> tokens[kTaps];
#pragma unroll
    for (int i = 0; i < kTaps; ++i) tokens[i] = read_token(a.in, run, t + i);
    window.set(tokens);
#pragma unroll
    for (int i = 0; i < kTaps; ++i) {
      float y[V];
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const float z = window.z(i, v);
        y[v] = a.in.silu ? z * sigmoid(z) : z;
      }
      if (t + i < run.last) store(a.y.data + (run.b * length + t + i) * C + run.c, y);
    }
    window.go_on();
  }
}

/// dx, and partial [blocks of runs,C,kTaps] of the weight's gradient.
template <class T>
__global__ void __launch_bounds__(kRunsOfBlock* kWarp)
    runs_backward_kernel(CausalConvBackward<T> a, float* partial) {
  __shared__ float sums[kRunsOfBlock][kWarp][kTaps * V + 1];  // one more, so that lanes meet different banks
  const int64_t length = a.in.x.size[1], C = a.in.x.size[2];
  const Run run(a.in.x.size[0], length, C, kBackwardRun);
  float dweight[V][kTaps] = {};
  if (run.exists) {
    Window<T> window(a.in, run);
    float dz[2 * kTaps - 1][V] = {};  // dz[i + kTaps - 1] belongs to token i
    for (int t = run.first; t < run.last + kTaps - 1; t += kTaps) {
      Packed<T, V> tokens[kTaps], dy[kTaps];
#pragma unroll
      for (int i = 0; i < kTaps; ++i) {
        tokens[i] = read_token(a.in, run, t + i);
        if (t + i < length) dy[i].read(a.dy.data + (run.b * length + t + i) * C + run.c);
      }
      window.set(tokens);
#pragma unroll
      for (int i = 0; i < kTaps; ++i) {
        float(&own)[V] = dz[kTaps - 1 + i];
        dy[i].unpack(own);  // zero behind the last token
        if (a.in.silu)
#pragma unroll
          for (int v = 0; v < V; ++v) {
            const float z = window.z(i, v), s = sigmoid(z);
            if (t + i < length) own[v] *= s * (1 + z * (1 - s));
          }
        if (t + i < run.last)
#pragma unroll
          for (int v = 0; v < V; ++v)
#pragma unroll
            for (int j = 0; j < kTaps; ++j) dweight[v][j] += own[v] * window.x[i + j][v];
        const int done = t + i - (kTaps - 1);  // the token whose readers are all known
        if (done < run.first || done >= run.last) continue;
        float dx[V] = {};
#pragma unroll
        for (int v = 0; v < V; ++v)
#pragma unroll
          for (int j = 0; j < kTaps; ++j) dx[v] += window.weight[j][v] * dz[i + kTaps - 1 - j][v];
        store(a.dx.data + (run.b * length + done) * C + run.c, dx);
      }
      window.go_on();
#pragma unroll
      for (int i = 0; i < kTaps - 1; ++i)
#pragma unroll
        for (int v = 0; v < V; ++v) dz[i][v] = dz[kTaps + i][v];
    }
  }
#pragma unroll
  for (int v = 0; v < V; ++v)
#pragma unroll
    for (int j = 0; j < kTaps; ++j) sums[threadIdx.y][threadIdx.x][v * kTaps + j] = dweight[v][j];
  __syncthreads();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarp * V * kTaps;
  for (int i = threadIdx.y * kWarp + threadIdx.x; i < kWarp * V * kTaps; i += kRunsOfBlock * kWarp) {
    if (first + i >= C * kTaps) break;
    float sum = 0;
#pragma unroll
    for (int r = 0; r < kRunsOfBlock; ++r) sum += sums[r][i / (V * kTaps)][i % (V * kTaps)];
    partial[blockIdx.y * C * kTaps + first + i] = sum;
  }
}

/// A block per kWarp packs of channels and kRunsOfBlock runs; none in y where they are more than a grid has.
template <class T>
dim3 grid_of_runs(const CausalConvInputs<T>& in, int tokens) {
  const int64_t runs = in.x.size[0] * ((in.x.size[1] + tokens - 1) / tokens);
  const int64_t blocks = (runs + kRunsOfBlock - 1) / kRunsOfBlock;
  return dim3(blocks_for(in.x.size[2], kWarp * V), blocks <= 65535 ? static_cast<unsigned>(blocks) : 0);
}
constexpr dim3 kRunThreads(kWarp, kRunsOfBlock);

template <class T>
void conv_forward(const CausalConvForward<T>& args, Stream& stream) {
  const int64_t n = args.in.x.numel();
  if (n == 0) return;
  if (const dim3 grid = grid_of_runs(args.in, kForwardRun); grid.y > 0 && has_packs(args.in, {args.y.data})) {
    runs_forward_kernel<<<grid, kRunThreads, 0, stream.native()>>>(args);
    return check_launch(args.name);
  }
  conv_forward_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T, class Z>
void gradients(const CausalConvBackward<T>& args, const Z* dz, unsigned blocks, float* partial,
               Stream& stream) {
  const int64_t B = args.in.x.size[0], C = args.in.x.size[2], K = args.in.weight.size[1];
  const int64_t rows = args.in.x.size[1] + (args.dhistory ? K - 1 : 0);
  if (B * rows * C > 0)
    rows_gradient_kernel<<<blocks_for(B * rows * C, kThreads), kThreads, 0, stream.native()>>>(args, dz);
  weight_gradient_kernel<<<dim3(blocks_for(C, kColumns), blocks), dim3(kColumns, kRows), 0,
                           stream.native()>>>(args.in, dz, partial);
  check_launch(args.name);
  add_blocks(partial, blocks, C * K, args.dweight.data, args.accumulate_weight, stream);
}

template <class T>
void conv_backward(const CausalConvBackward<T>& args, Stream& stream) {
  const int64_t n = args.in.x.numel(), C = args.in.x.size[2];
  if (C == 0) return;
  if (const dim3 grid = grid_of_runs(args.in, kBackwardRun);
      grid.y > 0 && !args.dhistory && has_packs(args.in, {args.dy.data, args.dx.data})) {
    auto* const partial = reinterpret_cast<float*>(
        stream.scratch(static_cast<size_t>(grid.y * args.in.weight.numel()) * sizeof(float)).data());
    runs_backward_kernel<<<grid, kRunThreads, 0, stream.native()>>>(args, partial);
    check_launch(args.name);
    return add_blocks(partial, grid.y, args.in.weight.numel(), args.dweight.data, args.accumulate_weight,
                      stream);
  }
  const unsigned blocks = std::max(1u, blocks_for(n / C, kRowsPerBlock));
  HEADWAY_CHECK(
      blocks <= 65535, ShapeError,
      "causal_conv_backward: " + std::to_string(n / C) + " rows are more than the GPU kernel can take");
  const int64_t sums = blocks * args.in.weight.numel();
  auto* const partial = reinterpret_cast<float*>(
      stream.scratch(static_cast<size_t>(sums + (args.in.silu ? n : 0)) * sizeof(float)).data());
  if (!args.in.silu) return gradients(args, args.dy.data, blocks, partial, stream);
  float* const dz = partial + sums;
  if (n > 0) silu_gradient_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream.native()>>>(args, dz);
  gradients(args, static_cast<const float*>(dz), blocks, partial, stream);
}

HEADWAY_KERNEL(cuda, conv_forward<float>);
HEADWAY_KERNEL(cuda, conv_forward<bf16>);
HEADWAY_KERNEL(cuda, conv_backward<float>);
HEADWAY_KERNEL(cuda, conv_backward<bf16>);

}  // namespace
}  // namespace headway
