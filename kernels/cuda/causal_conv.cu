// A thread has a pack of neighbouring channels of a run of tokens. It walks along the run with the K rows
// that a token sees in registers, in backward beside the gradients of these rows and of its taps; then the
// tokens behind the run that see it are done once more, so that dz never lies in memory. The taps' gradients
// are summed over the runs of a block, then over blocks. Other K than 2, 3 and 4 have plain loops.
#include "kernels/ops/causal_conv.h"

#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/sum_rows.cuh"

namespace headway {
namespace {
using namespace cuda;

/// Powers that are too small to be normal are zero, which 1 + power does not show.
__device__ float sigmoid(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(-1.44269504f * x));
  return __fdividef(1, 1 + power);
}

/// dsilu(z) / dz
__device__ float silu_slope(float z) {
  const float s = sigmoid(z);
  return s * (1 + z * (1 - s));
}

constexpr int kPack = 4;  // channels of a thread; eight would take so many registers that few threads run
constexpr int kColumns = kWarp, kRuns = 4;  // of a block of threads: packs of channels, and runs
constexpr int kThreads = kColumns * kRuns;
constexpr int kRound = 4;  // tokens: each has registers of its own for its row and for the one to come
/// Blocks a multiprocessor, as many as the registers allow without spills.
template <class T>
constexpr int kBackwardBlocks = sizeof(T) == 2 ? 4 : 3;
/// Runs that are too short read many tokens twice, those at their ends. Of very long ones there may be so few
/// more than threads that most of these wait for the last.
constexpr int64_t kShortestRun = 16, kLongestRun = 256;

struct Runs {
  int length;             // in tokens; the last of a sequence may be shorter
  unsigned per_sequence;  // at least one
  unsigned columns;       // blocks for all channels
  unsigned rows;          // blocks for all runs

  /// As many runs as threads run at a time, where their lengths allow, so that all end together.
  template <class T>
  Runs(const CausalConvInputs<T>& in, int pack, unsigned resident_blocks, const char* name) {
    const int64_t B = in.x.size[0], tokens = in.x.size[1], C = in.x.size[2];
    HEADWAY_CHECK(B * std::max<int64_t>(tokens, 1) < int64_t{1} << 30, ShapeError,
                  std::string(name) + ": " + std::to_string(B) + " sequences of " + std::to_string(tokens) +
                      " tokens are more than the GPU kernel can take");
    columns = blocks_for(C, kColumns * pack);
    const unsigned wanted =
        resident_blocks * kRuns / columns / static_cast<unsigned>(std::max<int64_t>(B, 1));
    const unsigned runs =
        std::max(1u, std::clamp(wanted, blocks_for(tokens, kLongestRun), blocks_for(tokens, kShortestRun)));
    length = std::max(1, static_cast<int>(blocks_for(tokens, runs)));
    per_sequence = std::max(1u, blocks_for(tokens, length));
    rows = std::max(1u, blocks_for(B * per_sequence, kRuns));
  }
  unsigned blocks() const { return columns * rows; }
};

/// What a thread has: tokens first <= t < last of sequence b, and channels from c on.
struct Share {
  bool exists;
  int first, last;
  int64_t b, c;

  template <class T>
  __device__ Share(const CausalConvInputs<T>& in, const Runs& runs, int pack)
      : c((static_cast<int64_t>(blockIdx.x % runs.columns) * kColumns + threadIdx.x) * pack) {
    const unsigned run = blockIdx.x / runs.columns * kRuns + threadIdx.y;
    const int length = static_cast<int>(in.x.size[1]);
    b = run / runs.per_sequence;
    first = static_cast<int>(run % runs.per_sequence) * runs.length;
    last = min(first + runs.length, length);
    exists = b < in.x.size[0] && c < in.x.size[2];
  }
  /// Of [B,T,C] at token t, or of [B,K-1,C] before token 0.
  __device__ int64_t offset(const auto& x, int t) const { return (b * x.size[1] + t) * x.size[2] + c; }
  __device__ int64_t offset_before(const auto& x, int t) const {
    return offset(x, static_cast<int>(x.size[1]) + t);
  }
};

/// V channels of N rows.
template <int V, int N>
struct Rows {
  float values[N][V] = {};
};

/// Where the row lies that tap j takes at token i of a round: a row stays in its place.
template <int K>
__device__ constexpr int slot(int i, int j) {
  static_assert(K <= kRound);
  return (i + kRound - (K - 1) + j) % kRound;
}

/// A thread's channels of a round of tokens.
template <class T, int V>
struct Round {
  Packed<T, V> tokens[kRound];
};

/// One round after the other, each asked for while the one before is worked on.
template <class T, int V>
class Rounds {
 public:
  __device__ Rounds(const T* first, int num_tokens, int64_t stride)
      : from_(first), num_tokens_(num_tokens), stride_(stride) {
    ask();
  }
  __device__ Round<T, V> take() {
    const Round<T, V> round = next_;
    ask();
    return round;
  }

 private:
  __device__ void ask() {
#pragma unroll
    for (int i = 0; i < kRound; ++i) {
      if (i < num_tokens_) next_.tokens[i].read_once(from_);
      from_ += stride_;
    }
    num_tokens_ -= kRound;
  }

  const T* from_;
  int num_tokens_;
  int64_t stride_;
  Round<T, V> next_;
};

/// The taps of a thread's channels, from memory [C,K].
template <class T, int V, int K>
__device__ Rows<V, K> taps_of(const CausalConvInputs<T>& in, int64_t c) {
  Rows<V, K> taps;
#pragma unroll
  for (int v = 0; v < V; ++v)
#pragma unroll
    for (int j = 0; j < K; ++j) taps.values[j][v] = to_float(in.weight.data[(c + v) * K + j]);
  return taps;
}

/// What the first token sees, without its own row.
template <class T, int V, int K>
__device__ Rows<V, kRound> rows_before(const CausalConvInputs<T>& in, const Share& share) {
  Rows<V, kRound> rows;
#pragma unroll
  for (int j = 0; j < K - 1; ++j) {
    const int t = share.first - (K - 1) + j;
    if (t >= 0)
      load(in.x.data + share.offset(in.x, t), rows.values[slot<K>(0, j)]);
    else if (in.history)
      load(in.history.data + share.offset_before(in.history, t), rows.values[slot<K>(0, j)]);
  }
  return rows;
}

/// z of token i of a round.
template <int V, int K>
__device__ void convolve(const Rows<V, K>& taps, const Rows<V, kRound>& rows, int i, float (&z)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    z[v] = 0;
#pragma unroll
    for (int j = 0; j < K; ++j) z[v] += taps.values[j][v] * rows.values[slot<K>(i, j)][v];
  }
}

template <class T, int V, int K>
__global__ void __launch_bounds__(kThreads) conv_forward_kernel(CausalConvForward<T> a, Runs runs) {
  const Share share(a.in, runs, V);
  if (!share.exists) return;
  const int64_t C = a.in.x.size[2], start = share.offset(a.in.x, share.first);
  const Rows<V, K> taps = taps_of<T, V, K>(a.in, share.c);
  Rounds<T, V> x(a.in.x.data + start, share.last - share.first, C);
  Rows<V, kRound> rows = rows_before<T, V, K>(a.in, share);
  T* y = a.y.data + start;
  const auto work = [&](int round, auto is_whole) {
    const Round<T, V> xs = x.take();
#pragma unroll
    for (int i = 0; i < kRound; ++i) {
      if (!is_whole && round + i >= share.last) break;
      xs.tokens[i].unpack(rows.values[slot<K>(i, K - 1)]);
      float z[V];
      convolve(taps, rows, i, z);
      if (a.in.silu)
#pragma unroll
        for (int v = 0; v < V; ++v) z[v] *= sigmoid(z[v]);
      store_once(y, z);
      y += C;
    }
  };
  int round = share.first;
  for (; round + kRound <= share.last; round += kRound) work(round, std::true_type());
  if (round < share.last) work(round, std::false_type());
}

/// partial [blocks of runs,C,K]: what a block's runs give for the taps.
template <class T, int V, int K>
__global__ void __launch_bounds__(kThreads, kBackwardBlocks<T>)
    conv_backward_kernel(CausalConvBackward<T> a, Runs runs, float* partial) {
  __shared__ float sums[kRuns][V * K][kColumns + 1];  // the odd width spreads both accesses over the banks
  let_next_kernel_begin();                            // add_blocks may be placed as blocks of this kernel end
  const Share share(a.in, runs, V);
  const int64_t C = a.in.x.size[2];
  Rows<V, K> dtaps;
  if (share.exists) {
    const int end = min(share.last + K - 1, static_cast<int>(a.in.x.size[1]));  // of what sees the run
    const int64_t start = share.offset(a.in.x, share.first);
    const Rows<V, K> taps = taps_of<T, V, K>(a.in, share.c);
    Rounds<T, V> x(a.in.x.data + start, end - share.first, C), dy(a.dy.data + start, end - share.first, C);
    Rows<V, kRound> rows = rows_before<T, V, K>(a.in, share), drows;
    T* dx = a.dx.data + start;
    const auto work = [&](int round, auto is_inside) {
      const Round<T, V> xs = x.take(), dys = dy.take();
#pragma unroll
      for (int i = 0; i < kRound; ++i) {
        const int t = round + i, completed = t - (K - 1);
        if (is_inside || t < end) {
          float dz[V];
          xs.tokens[i].unpack(rows.values[slot<K>(i, K - 1)]);
          dys.tokens[i].unpack(dz);
          if (a.in.silu) {
            float z[V];
            convolve(taps, rows, i, z);
#pragma unroll
            for (int v = 0; v < V; ++v) dz[v] *= silu_slope(z[v]);
          }
          if (is_inside || t < share.last)
#pragma unroll
            for (int j = 0; j < K; ++j)
#pragma unroll
              for (int v = 0; v < V; ++v) dtaps.values[j][v] += dz[v] * rows.values[slot<K>(i, j)][v];
#pragma unroll
          for (int j = 0; j < K; ++j)
#pragma unroll
            for (int v = 0; v < V; ++v) {
              float& sum = drows.values[slot<K>(i, j)][v];
              sum = taps.values[j][v] * dz[v] + (j < K - 1 ? sum : 0);
            }
        }
        if (is_inside || (completed >= share.first && completed < share.last)) {
          store_once(dx, drows.values[slot<K>(i, 0)]);
          dx += C;
        } else if (completed < 0 && a.dhistory) {  // only the first run of a sequence is so near the history
          store(a.dhistory.data + share.offset_before(a.dhistory, completed), drows.values[slot<K>(i, 0)]);
        }
      }
    };
    for (int round = share.first; round < share.last + K - 1; round += kRound)
      if (round > share.first && round + kRound <= share.last)
        work(round, std::true_type());
      else
        work(round, std::false_type());
  }
#pragma unroll
  for (int j = 0; j < K; ++j)
#pragma unroll
    for (int v = 0; v < V; ++v) sums[threadIdx.y][v * K + j][threadIdx.x] = dtaps.values[j][v];
  __syncthreads();
  const int64_t first = static_cast<int64_t>(blockIdx.x % runs.columns) * kColumns * V * K;
  for (int i = threadIdx.y * kColumns + threadIdx.x; i < kColumns * V * K && first + i < C * K;
       i += kThreads) {
    float sum = 0;
#pragma unroll
    for (int run = 0; run < kRuns; ++run) sum += sums[run][i % (V * K)][i / (V * K)];
    partial[blockIdx.x / runs.columns * C * K + first + i] = sum;
  }
}

// Any number of taps: what lies in no register is computed as often as it is needed.

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

/// dz[t,c]
template <class T>
__device__ float gradient_at(const CausalConvBackward<T>& a, int64_t b, int64_t t, int64_t c) {
  const float dy = to_float(a.dy.data[(b * a.in.x.size[1] + t) * a.in.x.size[2] + c]);
  return a.in.silu ? dy * silu_slope(convolved(a.in, b, t, c)) : dy;
}

template <class T>
__global__ void plain_forward_kernel(CausalConvForward<T> a) {
  const int64_t C = a.in.x.size[2], length = a.in.x.size[1];
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= a.in.x.numel()) return;
  const int64_t row = index / C;
  const float z = convolved(a.in, row / length, row % length, index % C);
  a.y.data[index] = from_float<T>(a.in.silu ? z * sigmoid(z) : z);
}

/// dx, and dhistory where it is wanted.
template <class T>
__global__ void plain_rows_gradient_kernel(CausalConvBackward<T> a) {
  const int64_t C = a.in.x.size[2], length = a.in.x.size[1], K = a.in.weight.size[1];
  const int64_t before = a.dhistory ? K - 1 : 0, rows = before + length;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= a.in.x.size[0] * rows * C) return;
  const int64_t c = index % C, b = index / C / rows, t = index / C % rows - before;
  float sum = 0;
  for (int64_t j = 0; j < K; ++j)
    if (const int64_t reader = t + K - 1 - j; reader >= 0 && reader < length)
      sum += to_float(a.in.weight.data[c * K + j]) * gradient_at(a, b, reader, c);
  T& to = t >= 0 ? a.dx.data[(b * length + t) * C + c] : a.dhistory.data[(b * before + before + t) * C + c];
  to = from_float<T>(sum);
}

template <class T>
void plain_forward(const CausalConvForward<T>& args, Stream& stream) {
  plain_forward_kernel<<<blocks_for(args.in.x.numel(), kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
void plain_backward(const CausalConvBackward<T>& args, Stream& stream) {
  const int64_t B = args.in.x.size[0], length = args.in.x.size[1], C = args.in.x.size[2];
  const int64_t K = args.in.weight.size[1], values = B * (length + (args.dhistory ? K - 1 : 0)) * C;
  if (values > 0)
    plain_rows_gradient_kernel<<<blocks_for(values, kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
  const auto term = [args, length, K] __device__(int64_t row, int64_t n, float(&values)[1]) {
    const int64_t b = row / length, t = row % length, c = n / K, j = n % K;
    values[0] = gradient_at(args, b, t, c) * value_at(args.in, b, t - (K - 1) + j, c);
  };
  sum_rows(args.name, B * length, C * K, term, args.dweight.data, args.accumulate_weight, stream);
}

/// Calls run(V, K) for the numbers of taps that have kernels of their own: kPack channels a thread where all
/// is aligned so, else one. Else calls plain().
template <class T, class Run, class Plain>
void with_taps(const CausalConvInputs<T>& in, std::initializer_list<const void*> others, Run run,
               Plain plain) {
  const auto fits = [](const void* pointer) { return is_aligned(pointer, kPack * sizeof(T)); };
  const bool wide = in.x.size[2] % kPack == 0 && fits(in.x.data) && fits(in.history.data) &&
                    std::all_of(others.begin(), others.end(), fits);
  const auto go = [&]<int K>() {
    wide ? run.template operator()<kPack, K>() : run.template operator()<1, K>();
  };
  switch (in.weight.size[1]) {
    case 2:
      return go.template operator()<2>();
    case 3:
      return go.template operator()<3>();
    case 4:
      return go.template operator()<4>();
    default:
      plain();
  }
}

template <class T>
void conv_forward(const CausalConvForward<T>& args, Stream& stream) {
  if (args.in.x.numel() == 0) return;
  const auto run = [&]<int V, int K>() {
    const auto kernel = conv_forward_kernel<T, V, K>;
    const Runs runs(args.in, V, num_resident_blocks(kernel, kThreads, 0, stream), args.name);
    kernel<<<runs.blocks(), dim3(kColumns, kRuns), 0, stream.native()>>>(args, runs);
    check_launch(args.name);
  };
  with_taps(args.in, {args.y.data}, run, [&] { plain_forward(args, stream); });
}

template <class T>
void conv_backward(const CausalConvBackward<T>& args, Stream& stream) {
  const int64_t numel = args.in.weight.numel();
  if (numel == 0) return;
  const auto run = [&]<int V, int K>() {
    const auto kernel = conv_backward_kernel<T, V, K>;
    const Runs runs(args.in, V, num_resident_blocks(kernel, kThreads, 0, stream), args.name);
    auto* const partial = reinterpret_cast<float*>(
        stream.scratch(static_cast<size_t>(runs.rows * numel) * sizeof(float)).data());
    kernel<<<runs.blocks(), dim3(kColumns, kRuns), 0, stream.native()>>>(args, runs, partial);
    check_launch(args.name);
    add_blocks(partial, runs.rows, numel, args.dweight.data, args.accumulate_weight, stream);
  };
  with_taps(args.in, {args.dy.data, args.dx.data, args.dhistory.data}, run,
            [&] { plain_backward(args, stream); });
}

HEADWAY_KERNEL(cuda, conv_forward<float>);
HEADWAY_KERNEL(cuda, conv_forward<bf16>);
HEADWAY_KERNEL(cuda, conv_backward<float>);
HEADWAY_KERNEL(cuda, conv_backward<bf16>);

}  // namespace
}  // namespace headway
