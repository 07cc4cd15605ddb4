// The convolution within heads is one batched matrix product per tap. Its operands hold, for each head, the
// rows of all sequences one after the other, each sequence with the K1 - 1 rows that its first tokens look
// back on, so that a tap is a shift by whole rows. Rows that a shift takes into the next sequence are
// computed and not read; their gradients are zero.
#include "kernels/ops/cca_prologue.h"

#include <cmath>

#include "core/storage.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/sum_rows.cuh"
#include "kernels/ops/matmul.h"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 256;

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

/// Calls run(V): V neighbouring channels move at a time, four where a head divides into them and all is
/// aligned so.
template <class T, class Run>
void with_packs(const CcaPrologueInputs<T>& in, std::initializer_list<const T*> others, Run run) {
  bool wide =
      in.query.size[3] % 4 == 0 && is_aligned(in.conv_a_bias.data, 16) && is_aligned(in.conv_b_bias.data, 16);
  const auto check = [&](const T* rows) { wide = wide && is_aligned(rows, 4 * sizeof(T)); };
  check(in.query.data), check(in.key.data), check(in.query_history.data), check(in.key_history.data);
  for (const T* const rows : others) check(rows);
  wide ? run.template operator()<4>() : run.template operator()<1>();
}

/// A thread's V neighbouring channels of a row of u1, u2 or a gradient; blockIdx.y is the head.
template <int V>
struct Cell {
  unsigned row;
  int head, d;

  __device__ explicit Cell(const Sizes& s) : head(static_cast<int>(blockIdx.y)) {
    const unsigned index = blockIdx.x * kThreads + threadIdx.x, packs = static_cast<unsigned>(s.Dh) / V;
    row = index / packs;
    d = static_cast<int>(index % packs) * V;
  }
  __device__ int64_t channel(const Sizes& s) const { return head * s.Dh + d; }
};
/// For so many rows of every head.
template <int V>
dim3 grid_of_cells(const Sizes& s, int64_t rows, const char* name) {
  const int64_t cells = rows * (s.Dh / V);
  HEADWAY_CHECK(
      cells < int64_t{1} << 31 && s.num_heads() <= 65535, ShapeError,
      std::string(name) + ": " + std::to_string(rows) + " tokens are more than the GPU kernel can take");
  return dim3(blocks_for(cells, kThreads), static_cast<unsigned>(s.num_heads()));
}

/// u0[t, head, d..], with the history or zero before token 0.
template <int V, class T>
__device__ void read_projected(const CcaPrologueInputs<T>& in, const Sizes& s, int64_t b, int64_t t,
                               int64_t head, int64_t d, float (&to)[V]) {
  const bool is_query = head < s.H;
  const int64_t heads = is_query ? s.H : s.K, h = is_query ? head : head - s.H;
  const int64_t before = s.taps_a + s.taps_b - 2;
  const T* const history = (is_query ? in.query_history : in.key_history).data;
  if (t >= 0)
    load((is_query ? in.query : in.key).data + ((b * s.length + t) * heads + h) * s.Dh + d, to);
  else if (history)
    load(history + ((b * before + before + t) * heads + h) * s.Dh + d, to);
  else
#pragma unroll
    for (float& x : to) x = 0;
}

/// u1 [H+K, shifted, Dh]; row r of a head is token r % (halo + length) - halo.
template <int V, class T>
__global__ void __launch_bounds__(kThreads)
    convolve_channels_kernel(CcaPrologueInputs<T> in, Sizes s, T* u1) {
  const Cell<V> cell(s);
  if (cell.row >= s.shifted) return;
  float sum[V] = {};
  if (cell.row < s.rows) {
    const auto of_sequence = static_cast<unsigned>(s.halo + s.length);
    const int64_t b = cell.row / of_sequence, t = cell.row % of_sequence - s.halo, c = cell.channel(s);
    load(in.conv_a_bias.data + c, sum);
    for (int64_t j = 0; j < s.taps_a; ++j) {
      float u0[V];
      read_projected(in, s, b, t - (s.taps_a - 1) + j, cell.head, cell.d, u0);
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] += to_float(in.conv_a.data[(c + v) * s.taps_a + j]) * u0[v];
    }
  }
  store(u1 + (cell.head * s.shifted + cell.row) * s.Dh + cell.d, sum);
}

/// conv_b [H+K, out, in, K1] -> [H+K, K1, out, in]
template <class T>
__global__ void __launch_bounds__(kThreads) pack_taps_kernel(CcaPrologueInputs<T> in, Sizes s, T* packed) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, area = s.Dh * s.Dh;
  if (index >= s.num_heads() * s.taps_b * area) return;
  const int64_t element = index % area, j = index / area % s.taps_b, head = index / area / s.taps_b;
  packed[index] = in.conv_b.data[(head * area + element) * s.taps_b + j];
}

/// A weight's gradient [count, area, taps] (+)= its packed form [count, taps, area].
__global__ void __launch_bounds__(kThreads)
    unpack_taps_kernel(const float* packed, int64_t count, int64_t taps, int64_t area, float* gradient,
                       bool accumulate) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= count * taps * area) return;
  const int64_t j = index % taps, element = index / taps % area, which = index / taps / area;
  const float value = packed[(which * taps + j) * area + element];
  gradient[index] = accumulate ? gradient[index] + value : value;
}

template <class T>
__device__ float temperature_of(const CcaPrologueInputs<T>& in, int64_t g) {
  const float temperature = in.temperature.data[g];
  return in.temperature_kind == CcaTemperature::exponential ? expf(temperature) : temperature;
}

constexpr int kRowLanes = 16;  // of a head of a token
__device__ inline float row_sum(float x) {
#pragma unroll
  for (int offset = kRowLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

/// The head of a token that kRowLanes lanes work on, and what is normalised there: q1 or k1. Lanes without
/// one take part in the sums.
template <int V, class T>
struct TokenHead {
  const CcaPrologueInputs<T>& in;
  const Sizes& s;
  const float* u2;
  bool exists;
  int lane = static_cast<int>(threadIdx.x) % kRowLanes;
  int64_t b, t, head;
  float inverse_norm = 0, root;

  __device__ TokenHead(const CcaPrologueInputs<T>& inputs, const Sizes& sizes, const float* all_u2)
      : in(inputs), s(sizes), u2(all_u2), root(sqrtf(static_cast<float>(sizes.Dh))) {
    const unsigned index = (blockIdx.x * kThreads + threadIdx.x) / kRowLanes;
    const auto heads = static_cast<unsigned>(s.num_heads()), length = static_cast<unsigned>(s.length);
    head = index % heads;
    t = index / heads % length;
    b = index / heads / length;
    exists = b < s.B;
    float squares = 0;
    each([&](int64_t, const float(&x)[V]) {
#pragma unroll
      for (const float value : x) squares += value * value;
    });
    inverse_norm = 1 / sqrtf(row_sum(squares) + static_cast<float>(in.eps));
  }
  __device__ bool is_query() const { return head < s.H; }
  __device__ int64_t group() const { return head - s.H; }
  /// Into q (or dq) or k (or dk).
  __device__ int64_t offset() const {
    return is_query() ? ((b * s.length + t) * s.H + head) * s.Dh
                      : ((b * s.length + t) * s.K + group()) * s.Dh;
  }
  /// f(d, x) for V of this lane's channels at a time.
  template <class F>
  __device__ void each(F f) const {
    if (!exists) return;
    for (int64_t d = lane * V; d < s.Dh; d += kRowLanes * V) {
      float x[V], bias[V];
      load(u2 + (head * s.rows + s.row_of(b, t)) * s.Dh + d, x);
      load(in.conv_b_bias.data + head * s.Dh + d, bias);
#pragma unroll
      for (int v = 0; v < V; ++v) x[v] += bias[v];
      if (in.qk_mean) add_mean(d, x);
      f(d, x);
    }
  }

 private:
  __device__ void add_mean(int64_t d, float (&x)[V]) const {
    float own[V], other[V], sum[V] = {};
    read_projected(in, s, b, t, head, d, own);
    const int64_t num_others = is_query() ? 1 : s.group,
                  first = is_query() ? s.H + head / s.group : group() * s.group;
    for (int64_t n = 0; n < num_others; ++n) {
      read_projected(in, s, b, t, first + n, d, other);
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] += other[v];
    }
    const float share = 1 / static_cast<float>(num_others);
#pragma unroll
    for (int v = 0; v < V; ++v) x[v] += 0.5f * (own[v] + share * sum[v]);
  }
};

template <int V, class T>
__global__ void __launch_bounds__(kThreads)
    normalise_kernel(CcaPrologueForward<T> a, Sizes s, const float* u2) {
  const TokenHead<V, T> row(a.in, s, u2);
  if (!row.exists) return;
  const float scale =
      row.root * row.inverse_norm * (row.is_query() ? 1.0f : temperature_of(a.in, row.group()));
  T* const to = (row.is_query() ? a.q.data : a.k.data) + row.offset();
  row.each([&](int64_t d, float(&x)[V]) {
#pragma unroll
    for (float& value : x) value *= scale;
    store(to + d, x);
  });
}

/// du2 [H+K, shifted, Dh], its rows after halo rows of zeros; dtemperature of every token [B T, K].
template <int V, class T>
__global__ void __launch_bounds__(kThreads)
    normalise_backward_kernel(CcaPrologueBackward<T> a, Sizes s, const float* u2, T* du2,
                              float* dtemperature) {
  const TokenHead<V, T> row(a.in, s, u2);
  const T* const dy = (row.is_query() ? a.dq.data : a.dk.data) + row.offset();
  float dot = 0;
  row.each([&](int64_t d, const float(&x)[V]) {
    float gradient[V];
    load(dy + d, gradient);
#pragma unroll
    for (int v = 0; v < V; ++v) dot += x[v] * gradient[v];
  });
  dot = row_sum(dot) * row.inverse_norm;
  if (!row.exists) return;
  const float beta = row.is_query() ? 1.0f : temperature_of(a.in, row.group());
  if (!row.is_query() && row.lane == 0)
    dtemperature[(row.b * s.length + row.t) * s.K + row.group()] =
        row.root * dot * (a.in.temperature_kind == CcaTemperature::exponential ? beta : 1.0f);
  const float scale = row.root * row.inverse_norm * beta, along = row.inverse_norm * dot;
  T* const to = du2 + (row.head * s.shifted + s.halo + s.row_of(row.b, row.t)) * s.Dh;
  row.each([&](int64_t d, const float(&x)[V]) {
    float gradient[V];
    load(dy + d, gradient);
#pragma unroll
    for (int v = 0; v < V; ++v) gradient[v] = scale * (gradient[v] - along * x[v]);
    store(to + d, gradient);
  });
}

/// dquery and dkey: through the first convolution, and through the means.
template <int V, class T>
__global__ void __launch_bounds__(kThreads)
    rows_gradient_kernel(CcaPrologueBackward<T> a, Sizes s, const T* du2, const float* du1) {
  const Cell<V> cell(s);
  if (cell.row >= s.B * s.length) return;
  const auto length = static_cast<unsigned>(s.length);
  const int64_t b = cell.row / length, t = cell.row % length, head = cell.head;
  float sum[V] = {}, other[V];
  const auto add_mean_of = [&](int64_t from, float share) {
    load(du2 + (from * s.shifted + s.halo + s.row_of(b, t)) * s.Dh + cell.d, other);
#pragma unroll
    for (int v = 0; v < V; ++v) sum[v] += share * other[v];
  };
  const bool is_query = head < s.H;
  if (a.in.qk_mean) {
    add_mean_of(head, 0.5f);
    if (is_query)
      add_mean_of(s.H + head / s.group, 0.5f / static_cast<float>(s.group));
    else
      for (int64_t n = 0; n < s.group; ++n) add_mean_of((head - s.H) * s.group + n, 0.5f);
  }
  for (int64_t j = 0; j < s.taps_a; ++j)
    if (const int64_t reader = t + s.taps_a - 1 - j; reader < s.length) {
      load(du1 + (head * s.rows + s.row_of(b, reader) + s.halo) * s.Dh + cell.d, other);
#pragma unroll
      for (int v = 0; v < V; ++v)
        sum[v] += to_float(a.in.conv_a.data[(cell.channel(s) + v) * s.taps_a + j]) * other[v];
    }
  store(is_query ? a.dquery.data + ((b * s.length + t) * s.H + head) * s.Dh + cell.d
                 : a.dkey.data + ((b * s.length + t) * s.K + head - s.H) * s.Dh + cell.d,
        sum);
}

/// Gradients of the first convolution, packed as [K0, channels], and of both biases.
template <int V, class T>
void sum_gradients(const CcaPrologueBackward<T>& args, const Sizes& s, const T* du2, const float* du1,
                   float* dconv_a, Stream& stream) {
  const auto& in = args.in;
  const auto channels = static_cast<unsigned>(s.channels()), width = static_cast<unsigned>(s.Dh),
             of_sequence = static_cast<unsigned>(s.halo + s.length);
  const auto conv_a_term = [=] __device__(int64_t r, int64_t n, float(&term)[V]) {
    const unsigned j = static_cast<unsigned>(n) / channels, c = static_cast<unsigned>(n) % channels,
                   head = c / width, d = c % width, row = static_cast<unsigned>(r);
    const int64_t t = row % of_sequence - s.halo - (s.taps_a - 1) + j;
    float u0[V];
    load(du1 + (head * s.rows + r) * s.Dh + d, term);
    read_projected(in, s, row / of_sequence, t, head, d, u0);
#pragma unroll
    for (int v = 0; v < V; ++v) term[v] *= u0[v];
  };
  const auto conv_a_bias_term = [=] __device__(int64_t r, int64_t c, float(&term)[V]) {
    load(du1 + (static_cast<unsigned>(c) / width * s.rows + r) * s.Dh + static_cast<unsigned>(c) % width,
         term);
  };
  const auto conv_b_bias_term = [=] __device__(int64_t r, int64_t c, float(&term)[V]) {
    load(du2 + (static_cast<unsigned>(c) / width * s.shifted + s.halo + r) * s.Dh +
             static_cast<unsigned>(c) % width,
         term);
  };
  sum_rows<V>(args.name, s.rows, s.channels() * s.taps_a, conv_a_term, dconv_a, false, stream);
  sum_rows<V>(args.name, s.rows, s.channels(), conv_a_bias_term, args.dconv_a_bias.data,
              args.accumulate_conv_a_bias, stream);
  sum_rows<V>(args.name, s.rows, s.channels(), conv_b_bias_term, args.dconv_b_bias.data,
              args.accumulate_conv_b_bias, stream);
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
    with_packs<T>(in, {}, [&]<int V>() {
      convolve_channels_kernel<V, T>
          <<<grid_of_cells<V>(s, s.shifted, "cca_prologue"), kThreads, 0, stream.native()>>>(in, s, u1);
    });
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
  unsigned blocks_of_rows() const { return blocks_for(s.B * s.length * s.num_heads(), kThreads / kRowLanes); }
};

template <class T>
void cca_prologue_forward(const CcaPrologueForward<T>& args, Stream& stream) {
  if (args.in.query.numel() == 0) return;
  const Intermediates<T> work(args.in, stream);
  with_packs<T>(args.in, {args.q.data, args.k.data}, [&]<int V>() {
    normalise_kernel<V, T><<<work.blocks_of_rows(), kThreads, 0, stream.native()>>>(args, work.s, work.u2);
  });
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
             dtaps_memory = work.template allocate<float>(in.conv_b.numel() + in.conv_a.numel(), stream),
             dtemperature_memory = work.template allocate<float>(tokens * s.K, stream);
  T* const du2 = static_cast<T*>(du2_memory->data());
  float *const du1 = static_cast<float*>(du1_memory->data()),
               *const dtaps = static_cast<float*>(dtaps_memory->data()),
               *const dconv_a = dtaps + in.conv_b.numel(),
               *const dtemperature = static_cast<float*>(dtemperature_memory->data());

  check_cuda(cudaMemsetAsync(du2, 0, du2_memory->bytes(), stream.native()), args.name);
  const auto with_packs_of_gradients = [&](auto run) {
    with_packs<T>(in, {args.dq.data, args.dk.data, args.dquery.data, args.dkey.data}, run);
  };
  with_packs_of_gradients([&]<int V>() {
    normalise_backward_kernel<V, T>
        <<<work.blocks_of_rows(), kThreads, 0, stream.native()>>>(args, s, work.u2, du2, dtemperature);
  });
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
  with_packs_of_gradients([&]<int V>() {
    rows_gradient_kernel<V, T><<<grid_of_cells<V>(s, tokens, args.name), kThreads, 0, stream.native()>>>(
        args, s, static_cast<const T*>(du2), du1);
    check_launch(args.name);
    sum_gradients<V, T>(args, s, du2, du1, dconv_a, stream);
  });
  const auto unpack = [&](const float* packed, int64_t count, int64_t taps, int64_t area, float* gradient,
                          bool accumulate) {
    unpack_taps_kernel<<<blocks_for(count * taps * area, kThreads), kThreads, 0, stream.native()>>>(
        packed, count, taps, area, gradient, accumulate);
    check_launch(args.name);
  };
  unpack(dtaps, s.num_heads(), s.taps_b, s.Dh * s.Dh, args.dconv_b.data, args.accumulate_conv_b);
  unpack(dconv_a, 1, s.taps_a, s.channels(), args.dconv_a.data, args.accumulate_conv_a);
  const auto temperature_term = [dtemperature, s] __device__(int64_t n, int64_t g, float(&term)[1]) {
    term[0] = dtemperature[n * s.K + g];
  };
  sum_rows(args.name, tokens, s.K, temperature_term, args.dtemperature.data, args.accumulate_temperature,
           stream);
}

HEADWAY_KERNEL(cuda, cca_prologue_forward<float>);
HEADWAY_KERNEL(cuda, cca_prologue_forward<bf16>);
HEADWAY_KERNEL(cuda, cca_prologue_backward<float>);
HEADWAY_KERNEL(cuda, cca_prologue_backward<bf16>);

}  // namespace
}  // namespace headway
