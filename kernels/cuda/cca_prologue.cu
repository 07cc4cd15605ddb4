// The convolution within heads is one batched matrix product per tap. Its operands hold, for each head, the
// rows of all sequences one after the other, each sequence with the K1 - 1 rows that its first tokens look
// back on, so that a tap is a shift by whole rows. Rows that a shift takes into the next sequence are
// computed and not read; their gradients are zero.
#include "kernels/ops/cca_prologue.h"

#include <cmath>

#include "core/storage.h"
#include "kernels/cuda/sum_rows.cuh"
#include "kernels/ops/matmul.h"

namespace headway {
namespace {
using namespace cuda;

constexpr int kWarps = 8, kThreads = kWarps * kWarp;

struct Sizes {
  int64_t B, length, H, K, Dh, group, taps_a, taps_b;
  int64_t halo;     // rows of u1 before token 0
  int64_t rows;     // of a head: B (halo + length)
  int64_t shifted;  // rows + halo: memory of a head, so that a shift stays inside

  template <class T>
  explicit Sizes(const CcaPrologueInputs<T>& in)
      : B(in.query.size[0]),
        length(in.query.size[1]),
        H(in.query.size[2]),
        K(in.key.size[2]),
        Dh(in.query.size[3]),
        group(H / K),
        taps_a(in.conv_a.size[1]),
        taps_b(in.conv_b.size[3]),
        halo(taps_b - 1),
        rows(B * (halo + length)),
        shifted(rows + halo) {}

  __host__ __device__ int64_t num_heads() const { return H + K; }
  __host__ __device__ int64_t channels() const { return (H + K) * Dh; }
  /// Row of u2 and du2 for token t of sequence b.
  __device__ int64_t row_of(int64_t b, int64_t t) const { return b * (halo + length) + t; }
};

/// u0, with the history or zero before token 0.
template <class T>
__device__ float projected(const CcaPrologueInputs<T>& in, const Sizes& s, int64_t b, int64_t t, int64_t head,
                           int64_t d) {
  const bool is_query = head < s.H;
  const int64_t heads = is_query ? s.H : s.K, h = is_query ? head : head - s.H;
  if (t >= 0)
    return to_float((is_query ? in.query : in.key).data[((b * s.length + t) * heads + h) * s.Dh + d]);
  const T* const history = (is_query ? in.query_history : in.key_history).data;
  const int64_t before = s.taps_a + s.taps_b - 2;
  return history ? to_float(history[((b * before + before + t) * heads + h) * s.Dh + d]) : 0.0f;
}

/// u1 [H+K, shifted, Dh]; row r of a head is token r % (halo + length) - halo.
template <class T>
__global__ void __launch_bounds__(kThreads)
    convolve_channels_kernel(CcaPrologueInputs<T> in, Sizes s, T* u1) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= s.num_heads() * s.shifted * s.Dh) return;
  const int64_t d = index % s.Dh, r = index / s.Dh % s.shifted, head = index / s.Dh / s.shifted;
  if (r >= s.rows) {
    u1[index] = from_float<T>(0);
    return;
  }
  const int64_t b = r / (s.halo + s.length), t = r % (s.halo + s.length) - s.halo, c = head * s.Dh + d;
  float sum = in.conv_a_bias.data[c];
  for (int64_t j = 0; j < s.taps_a; ++j)
    sum += to_float(in.conv_a.data[c * s.taps_a + j]) * projected(in, s, b, t - (s.taps_a - 1) + j, head, d);
  u1[index] = from_float<T>(sum);
}

/// conv_b [H+K, out, in, K1] -> [H+K, K1, out, in]
template <class T>
__global__ void __launch_bounds__(kThreads) pack_taps_kernel(CcaPrologueInputs<T> in, Sizes s, T* packed) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, area = s.Dh * s.Dh;
  if (index >= s.num_heads() * s.taps_b * area) return;
  const int64_t element = index % area, j = index / area % s.taps_b, head = index / area / s.taps_b;
  packed[index] = in.conv_b.data[(head * area + element) * s.taps_b + j];
}

/// dconv_b (+)= its packed form.
template <class T>
__global__ void __launch_bounds__(kThreads)
    unpack_taps_kernel(CcaPrologueBackward<T> a, Sizes s, const float* packed) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, area = s.Dh * s.Dh;
  if (index >= s.num_heads() * s.taps_b * area) return;
  const int64_t j = index % s.taps_b, element = index / s.taps_b % area, head = index / s.taps_b / area;
  const float value = packed[(head * s.taps_b + j) * area + element];
  a.dconv_b.data[index] = a.accumulate_conv_b ? a.dconv_b.data[index] + value : value;
}

/// What the means add to a row of u2.
template <class T>
__device__ float mean_of(const CcaPrologueInputs<T>& in, const Sizes& s, int64_t b, int64_t t, int64_t head,
                         int64_t d) {
  if (!in.qk_mean) return 0;
  if (head < s.H)
    return 0.5f * (projected(in, s, b, t, head, d) + projected(in, s, b, t, s.H + head / s.group, d));
  float sum = 0;
  for (int64_t n = 0; n < s.group; ++n) sum += projected(in, s, b, t, (head - s.H) * s.group + n, d);
  return 0.5f * (sum / static_cast<float>(s.group) + projected(in, s, b, t, head, d));
}

template <class T>
__device__ float temperature_of(const CcaPrologueInputs<T>& in, int64_t g) {
  const float temperature = in.temperature.data[g];
  return in.temperature_kind == CcaTemperature::exponential ? expf(temperature) : temperature;
}

/// The head of a token that a warp works on, and its row of u2, which becomes q1 or k1.
template <class T>
struct TokenHead {
  int lane = threadIdx.x % kWarp;
  int64_t b, t, head;
  bool is_query;
  float* x;
  float inverse_norm, root;

  __device__ TokenHead(const CcaPrologueInputs<T>& in, const Sizes& s, int64_t index, float* u2)
      : b(index / s.num_heads() / s.length),
        t(index / s.num_heads() % s.length),
        head(index % s.num_heads()),
        is_query(head < s.H),
        x(u2 + (head * s.rows + s.row_of(b, t)) * s.Dh),
        root(sqrtf(static_cast<float>(s.Dh))) {
    float squares = 0;
    for (int64_t d = lane; d < s.Dh; d += kWarp) {
      const float value = x[d] + in.conv_b_bias.data[head * s.Dh + d] + mean_of(in, s, b, t, head, d);
      x[d] = value;
      squares += value * value;
    }
    inverse_norm = 1 / sqrtf(warp_sum(squares) + static_cast<float>(in.eps));
  }
  __device__ int64_t group(const Sizes& s) const { return head - s.H; }
  /// Into q (or dq) or k (or dk).
  __device__ int64_t offset(const Sizes& s) const {
    return is_query ? ((b * s.length + t) * s.H + head) * s.Dh : ((b * s.length + t) * s.K + group(s)) * s.Dh;
  }
};

__device__ inline int64_t index_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
}

template <class T>
__global__ void __launch_bounds__(kThreads) normalise_kernel(CcaPrologueForward<T> a, Sizes s, float* u2) {
  const int64_t index = index_of_warp();
  if (index >= s.B * s.length * s.num_heads()) return;
  const TokenHead<T> row(a.in, s, index, u2);
  const float scale =
      row.root * row.inverse_norm * (row.is_query ? 1.0f : temperature_of(a.in, row.group(s)));
  T* const y = (row.is_query ? a.q.data : a.k.data) + row.offset(s);
  for (int64_t d = row.lane; d < s.Dh; d += kWarp) y[d] = from_float<T>(scale * row.x[d]);
}

/// du2 [H+K, shifted, Dh], its rows after halo rows of zeros; dtemperature of every token [B T, K].
template <class T>
__global__ void __launch_bounds__(kThreads)
    normalise_backward_kernel(CcaPrologueBackward<T> a, Sizes s, float* u2, T* du2, float* dtemperature) {
  const int64_t index = index_of_warp();
  if (index >= s.B * s.length * s.num_heads()) return;
  const TokenHead<T> row(a.in, s, index, u2);
  const T* const dy = (row.is_query ? a.dq.data : a.dk.data) + row.offset(s);
  float dot = 0;
  for (int64_t d = row.lane; d < s.Dh; d += kWarp) dot += row.x[d] * to_float(dy[d]);
  dot = warp_sum(dot) * row.inverse_norm;
  const float beta = row.is_query ? 1.0f : temperature_of(a.in, row.group(s));
  if (!row.is_query && row.lane == 0)
    dtemperature[(row.b * s.length + row.t) * s.K + row.group(s)] =
        row.root * dot * (a.in.temperature_kind == CcaTemperature::exponential ? beta : 1.0f);
  const float scale = row.root * row.inverse_norm * beta, along = row.inverse_norm * dot;
  T* const dx = du2 + (row.head * s.shifted + s.halo + s.row_of(row.b, row.t)) * s.Dh;
  for (int64_t d = row.lane; d < s.Dh; d += kWarp)
    dx[d] = from_float<T>(scale * (to_float(dy[d]) - along * row.x[d]));
}

/// dquery and dkey: through the first convolution, and through the means.
template <class T>
__global__ void __launch_bounds__(kThreads)
    rows_gradient_kernel(CcaPrologueBackward<T> a, Sizes s, const T* du2, const float* du1) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= s.B * s.length * s.channels()) return;
  const int64_t c = index % s.channels(), d = c % s.Dh, head = c / s.Dh;
  const int64_t t = index / s.channels() % s.length, b = index / s.channels() / s.length;
  const auto of_mean = [&](int64_t from) {
    return to_float(du2[(from * s.shifted + s.halo + s.row_of(b, t)) * s.Dh + d]);
  };
  const bool is_query = head < s.H;
  float sum = 0;
  if (a.in.qk_mean) {
    const float share = 0.5f / static_cast<float>(s.group);
    sum = 0.5f * of_mean(head);
    if (is_query)
      sum += share * of_mean(s.H + head / s.group);
    else
      for (int64_t n = 0; n < s.group; ++n) sum += 0.5f * of_mean((head - s.H) * s.group + n);
  }
  for (int64_t j = 0; j < s.taps_a; ++j)
    if (const int64_t reader = t + s.taps_a - 1 - j; reader < s.length)
      sum += to_float(a.in.conv_a.data[c * s.taps_a + j]) *
             du1[(head * s.rows + s.row_of(b, reader) + s.halo) * s.Dh + d];
  if (is_query)
    a.dquery.data[((b * s.length + t) * s.H + head) * s.Dh + d] = from_float<T>(sum);
  else
    a.dkey.data[((b * s.length + t) * s.K + head - s.H) * s.Dh + d] = from_float<T>(sum);
}

template <class E>
View<E, 2> matrix(E* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
  return {.data = data, .size = {rows, columns}, .stride = {row_stride, column_stride}};
}

/// A product of every head.
template <class T>
void multiply_heads(const View<const T, 2>& a, const View<const T, 2>& b, float* c, bool accumulate,
                    const MatmulBatch& batch, Stream& stream) {
  launch(Matmul<T, float>{.a = a,
                          .b = b,
                          .c = matrix(c, a.size[0], b.size[1], b.size[1], 1),
                          .bias = {},
                          .scale = {},
                          .accumulate = accumulate,
                          .batch = batch},
         stream);
}

/// Intermediate results, in memory of their own: matrix products use the stream's scratch.
template <class T>
struct Intermediates {
  Sizes s;
  std::shared_ptr<Storage> u1_memory, taps_memory, u2_memory;
  T *u1, *taps;  // [H+K, shifted, Dh], [H+K, K1, out, in]
  float* u2;     // [H+K, rows, Dh], without its bias

  Intermediates(const CcaPrologueInputs<T>& in, Stream& stream)
      : s(in),
        u1_memory(allocate<T>(s.num_heads() * s.shifted * s.Dh, stream)),
        taps_memory(allocate<T>(in.conv_b.numel(), stream)),
        u2_memory(allocate<float>(s.num_heads() * s.rows * s.Dh, stream)),
        u1(static_cast<T*>(u1_memory->data())),
        taps(static_cast<T*>(taps_memory->data())),
        u2(static_cast<float*>(u2_memory->data())) {
    convolve_channels_kernel<<<blocks_for(s.num_heads() * s.shifted * s.Dh, kThreads), kThreads, 0,
                               stream.native()>>>(in, s, u1);
    pack_taps_kernel<<<blocks_for(in.conv_b.numel(), kThreads), kThreads, 0, stream.native()>>>(in, s, taps);
    check_launch("cca_prologue");
    for (int64_t j = 0; j < s.taps_b; ++j)
      multiply_heads(matrix<const T>(u1 + j * s.Dh, s.rows, s.Dh, s.Dh, 1),
                     matrix<const T>(taps + j * s.Dh * s.Dh, s.Dh, s.Dh, 1, s.Dh), u2, j > 0,
                     batch(s.shifted * s.Dh, taps_size(), s.rows * s.Dh), stream);
  }

  template <class E>
  static std::shared_ptr<Storage> allocate(int64_t count, Stream& stream) {
    return Storage::allocate(static_cast<size_t>(count) * sizeof(E), stream.device());
  }
  int64_t taps_size() const { return s.taps_b * s.Dh * s.Dh; }
  MatmulBatch batch(int64_t a, int64_t b, int64_t c) const {
    return {.count = s.num_heads(), .a = a, .b = b, .c = c};
  }
  unsigned warps_of_rows() const { return blocks_for(s.B * s.length * s.num_heads(), kWarps); }
};

template <class T>
void cca_prologue_forward(const CcaPrologueForward<T>& args, Stream& stream) {
  if (args.in.query.numel() == 0) return;
  const Intermediates<T> work(args.in, stream);
  normalise_kernel<<<work.warps_of_rows(), kThreads, 0, stream.native()>>>(args, work.s, work.u2);
  check_launch(args.name);
}

template <class T>
void cca_prologue_backward(const CcaPrologueBackward<T>& args, Stream& stream) {
  const auto& in = args.in;
  if (in.query.numel() == 0) return;
  const Intermediates<T> work(in, stream);
  const Sizes s = work.s;
  const int64_t head_size = s.shifted * s.Dh, tokens = s.B * s.length;
  const auto du2_memory = work.template allocate<T>(s.num_heads() * head_size, stream),
             du1_memory = work.template allocate<float>(s.num_heads() * s.rows * s.Dh, stream),
             dtaps_memory = work.template allocate<float>(in.conv_b.numel(), stream),
             dtemperature_memory = work.template allocate<float>(tokens * s.K, stream);
  T* const du2 = static_cast<T*>(du2_memory->data());
  float *const du1 = static_cast<float*>(du1_memory->data()),
               *const dtaps = static_cast<float*>(dtaps_memory->data()),
               *const dtemperature = static_cast<float*>(dtemperature_memory->data());

  check_cuda(cudaMemsetAsync(du2, 0, du2_memory->bytes(), stream.native()), args.name);
  normalise_backward_kernel<<<work.warps_of_rows(), kThreads, 0, stream.native()>>>(args, s, work.u2, du2,
                                                                                    dtemperature);
  check_launch(args.name);
  const T* const rows = du2 + s.halo * s.Dh;
  for (int64_t j = 0; j < s.taps_b; ++j) {
    const int64_t tap = j * s.Dh * s.Dh;
    multiply_heads(matrix<const T>(rows - j * s.Dh, s.rows, s.Dh, s.Dh, 1),
                   matrix<const T>(work.taps + tap, s.Dh, s.Dh, s.Dh, 1), du1, j > 0,
                   work.batch(head_size, work.taps_size(), s.rows * s.Dh), stream);
    multiply_heads(matrix<const T>(rows, s.Dh, s.rows, 1, s.Dh),
                   matrix<const T>(work.u1 + j * s.Dh, s.rows, s.Dh, s.Dh, 1), dtaps + tap, false,
                   work.batch(head_size, head_size, work.taps_size()), stream);
  }
  rows_gradient_kernel<<<blocks_for(tokens * s.channels(), kThreads), kThreads, 0, stream.native()>>>(
      args, s, static_cast<const T*>(du2), du1);
  unpack_taps_kernel<<<blocks_for(in.conv_b.numel(), kThreads), kThreads, 0, stream.native()>>>(args, s,
                                                                                                dtaps);
  check_launch(args.name);

  const auto du1_at = [du1, s] __device__(int64_t r, int64_t c) {
    return du1[(c / s.Dh * s.rows + r) * s.Dh + c % s.Dh];
  };
  const auto conv_a_term = [in, s, du1_at] __device__(int64_t r, int64_t n, float(&term)[1]) {
    const int64_t c = n / s.taps_a, j = n % s.taps_a, P = s.halo + s.length;
    term[0] = du1_at(r, c) * projected(in, s, r / P, r % P - s.halo - (s.taps_a - 1) + j, c / s.Dh, c % s.Dh);
  };
  const auto conv_a_bias_term = [du1_at] __device__(int64_t r, int64_t c, float(&term)[1]) {
    term[0] = du1_at(r, c);
  };
  const auto conv_b_bias_term = [rows, s] __device__(int64_t r, int64_t c, float(&term)[1]) {
    term[0] = to_float(rows[(c / s.Dh * s.shifted + r) * s.Dh + c % s.Dh]);
  };
  const auto temperature_term = [dtemperature, s] __device__(int64_t n, int64_t g, float(&term)[1]) {
    term[0] = dtemperature[n * s.K + g];
  };
  sum_rows(args.name, s.rows, s.channels() * s.taps_a, conv_a_term, args.dconv_a.data, args.accumulate_conv_a,
           stream);
  sum_rows(args.name, s.rows, s.channels(), conv_a_bias_term, args.dconv_a_bias.data,
           args.accumulate_conv_a_bias, stream);
  sum_rows(args.name, s.rows, s.channels(), conv_b_bias_term, args.dconv_b_bias.data,
           args.accumulate_conv_b_bias, stream);
  sum_rows(args.name, tokens, s.K, temperature_term, args.dtemperature.data, args.accumulate_temperature,
           stream);
}

HEADWAY_KERNEL(cuda, cca_prologue_forward<float>);
HEADWAY_KERNEL(cuda, cca_prologue_forward<bf16>);
HEADWAY_KERNEL(cuda, cca_prologue_backward<float>);
HEADWAY_KERNEL(cuda, cca_prologue_backward<bf16>);

}  // namespace
}  // namespace headway
