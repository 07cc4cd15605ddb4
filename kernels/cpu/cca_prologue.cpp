// One (sequence, key/value group) at a time: neither the convolutions nor the means leave a group. The
// convolution within a head is one tile product, because K1 rows of u1 that follow each other in memory are
// one row of its left operand. Parameter gradients are summed over fixed blocks of sequences, so they do not
// depend on the number of threads.
#include "kernels/ops/cca_prologue.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attention/tile_gemm.h"
#include "kernels/cpu/carver.h"
#include "kernels/cpu/causal_conv.h"
#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

template <class T>
struct Sizes {
  int64_t B, length, H, K, Dh, group, taps_a, taps_b;
  int64_t halo;    // rows of u1 before token 0
  int64_t padded;  // Dh rounded up to whole vectors

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
        padded((Dh + kLanes<T> - 1) / kLanes<T> * kLanes<T>) {}

  int64_t num_heads() const { return H + K; }
  int64_t heads_per_group() const { return group + 1; }
  /// Which of the H + K heads is number n of group g: its queries, then its key.
  int64_t head(int64_t g, int64_t n) const { return n < group ? g * group + n : H + g; }
  bool is_worth_a_team() const { return B * length * num_heads() * Dh >= kSmallestParallel; }
};

enum class Direction { forward, backward };

/// Weights in the order in which the loops read them.
template <class T>
struct PackedWeights {
  T* taps;      // [H+K][K0][Dh]
  T* mix;       // [H+K][K1*padded][padded]: row (j, in), column out
  T* mix_back;  // [H+K][K1*padded][padded]: row (K1-1-j, out), column in; backward only

  PackedWeights(Carver& carver, const Sizes<T>& s, Direction direction)
      : taps(carver.take<T>(s.num_heads() * s.taps_a * s.Dh)),
        mix(carver.take<T>(s.num_heads() * mix_size(s))),
        mix_back(carver.take<T>(direction == Direction::backward ? s.num_heads() * mix_size(s) : 0)) {}

  static int64_t mix_size(const Sizes<T>& s) { return s.taps_b * s.padded * s.padded; }

  void fill(const CcaPrologueInputs<T>& in, const Sizes<T>& s, Direction direction) const {
#pragma omp parallel for if (s.num_heads() * mix_size(s) >= kSmallestParallel)
    for (int64_t head = 0; head < s.num_heads(); ++head) {
      pack_taps(&in.conv_a(head * s.Dh, 0), s.Dh, s.taps_a, taps + head * s.taps_a * s.Dh);
      T* const forward = mix + head * mix_size(s);
      std::fill_n(forward, mix_size(s), T(0));
      for (int64_t j = 0; j < s.taps_b; ++j)
        for (int64_t i = 0; i < s.Dh; ++i)
          for (int64_t o = 0; o < s.Dh; ++o)
            forward[(j * s.padded + i) * s.padded + o] = in.conv_b(head, o, i, j);
      if (direction == Direction::forward) continue;
      T* const back = mix_back + head * mix_size(s);
      std::fill_n(back, mix_size(s), T(0));
      for (int64_t j = 0; j < s.taps_b; ++j)
        for (int64_t o = 0; o < s.Dh; ++o)
          for (int64_t i = 0; i < s.Dh; ++i)
            back[((s.halo - j) * s.padded + o) * s.padded + i] = in.conv_b(head, o, i, j);
    }
  }
};

/// What one thread needs for one group. The padding of every row stays zero.
template <class T>
struct Workspace {
  T* u1;     // [G+1][halo + T][padded]
  T* u2;     // [G+1][T][padded], then q1 and k1
  T* du2;    // [G+1][halo + T + halo][padded], zero outside the tokens; backward only, as all below
  T* du1;    // [halo + T][padded]
  T* dtaps;  // [G+1][K0][Dh]
  T* dmix;   // [G+1][K1][Dh out][padded in]

  Workspace(Carver& carver, const Sizes<T>& s, Direction direction) {
    const int64_t back = direction == Direction::backward ? 1 : 0, heads = s.heads_per_group();
    u1 = carver.take<T>(heads * u1_size(s));
    u2 = carver.take<T>(heads * s.length * s.padded);
    du2 = carver.take<T>(back * heads * du2_size(s));
    du1 = carver.take<T>(back * u1_size(s));
    dtaps = carver.take<T>(back * heads * s.taps_a * s.Dh);
    dmix = carver.take<T>(back * heads * dmix_size(s));
  }
  static int64_t u1_size(const Sizes<T>& s) { return (s.halo + s.length) * s.padded; }
  static int64_t du2_size(const Sizes<T>& s) { return (s.halo + s.length + s.halo) * s.padded; }
  static int64_t dmix_size(const Sizes<T>& s) { return s.taps_b * s.Dh * s.padded; }
};

template <class T>
CausalRows<const T> rows_of_head(const CcaPrologueInputs<T>& in, const Sizes<T>& s, int64_t b, int64_t head) {
  const bool is_query = head < s.H;
  const View<const T, 4>& x = is_query ? in.query : in.key;
  const View<const T, 4>& history = is_query ? in.query_history : in.key_history;
  const int64_t h = is_query ? head : head - s.H;
  return {.rows = &x(b, 0, h, 0),
          .stride = x.stride[1],
          .before = history ? &history(b, 0, h, 0) : nullptr,
          .before_stride = history.stride[1],
          .num_before = in.num_history_rows()};
}

/// u1 and u2 of one head, u2 without its bias.
template <class T>
void convolve(const CcaPrologueInputs<T>& in, const Sizes<T>& s, const PackedWeights<T>& weights, int64_t b,
              int64_t head, T* u1, T* u2) {
  causal_conv_forward(rows_of_head(in, s, b, head), weights.taps + head * s.taps_a * s.Dh,
                      in.conv_a_bias.data + head * s.Dh, s.Dh, s.taps_a, -s.halo, s.length, u1, s.padded);
  tile_gemm<TileWrite::overwrite>(static_cast<int>(s.length), static_cast<int>(s.padded),
                                  static_cast<int>(s.taps_b * s.padded), TileOperand<T>{u1, s.padded, 1},
                                  weights.mix + head * weights.mix_size(s), s.padded, u2, s.padded);
}

/// Biases and means of token t: rows of u2 become q1 and k1.
template <class T>
void add_means(const CcaPrologueInputs<T>& in, const Sizes<T>& s, int64_t b, int64_t g, int64_t t, T* u2) {
  const auto row = [&](int64_t n) { return u2 + (n * s.length + t) * s.padded; };
  for (int64_t n = 0; n <= s.group; ++n) {
    const T* bias = in.conv_b_bias.data + s.head(g, n) * s.Dh;
    T* const x = row(n);
#pragma omp simd
    for (int64_t d = 0; d < s.Dh; ++d) x[d] += bias[d];
  }
  if (!in.qk_mean) return;
  const T* const k0 = &in.key(b, t, g, 0);
  T* const k1 = row(s.group);
  const T half = T(0.5), share = half / static_cast<T>(s.group);
#pragma omp simd
  for (int64_t d = 0; d < s.Dh; ++d) k1[d] += half * k0[d];
  for (int64_t n = 0; n < s.group; ++n) {
    const T* const q0 = &in.query(b, t, s.head(g, n), 0);
    T* const q1 = row(n);
#pragma omp simd
    for (int64_t d = 0; d < s.Dh; ++d) {
      q1[d] += half * (q0[d] + k0[d]);
      k1[d] += share * q0[d];
    }
  }
}

template <class T>
T inverse_norm(const T* x, int64_t Dh, double eps) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < Dh; ++d) sum += x[d] * x[d];
  return T(1) / std::sqrt(sum + static_cast<T>(eps));
}

template <class T>
T temperature_of(const CcaPrologueInputs<T>& in, int64_t g) {
  const T temperature = in.temperature(g);
  return in.temperature_kind == CcaTemperature::exponential ? std::exp(temperature) : temperature;
}

template <class T>
void cca_prologue_forward(const CcaPrologueForward<T>& args, Stream& stream) {
  const auto& in = args.in;
  const Sizes<T> s(in);
  const auto num_threads = static_cast<size_t>(omp_get_max_threads());
  Carver count_weights(nullptr), count_thread(nullptr);
  PackedWeights<T>(count_weights, s, Direction::forward);
  Workspace<T>(count_thread, s, Direction::forward);
  std::byte* const memory = stream.scratch(count_weights.used() + num_threads * count_thread.used()).data();
  Carver weight_memory(memory);
  const PackedWeights<T> weights(weight_memory, s, Direction::forward);
  weights.fill(in, s, Direction::forward);
#pragma omp parallel if (s.is_worth_a_team())
  {
    Carver carver(memory + count_weights.used() +
                  static_cast<size_t>(omp_get_thread_num()) * count_thread.used());
    const Workspace<T> work(carver, s, Direction::forward);
    std::fill_n(work.u1, s.heads_per_group() * work.u1_size(s), T(0));
#pragma omp for collapse(2)
    for (int64_t b = 0; b < s.B; ++b)
      for (int64_t g = 0; g < s.K; ++g) {
        for (int64_t n = 0; n <= s.group; ++n)
          convolve(in, s, weights, b, s.head(g, n), work.u1 + n * work.u1_size(s),
                   work.u2 + n * s.length * s.padded);
        const T root = std::sqrt(static_cast<T>(s.Dh)), beta = temperature_of(in, g);
        for (int64_t t = 0; t < s.length; ++t) {
          add_means(in, s, b, g, t, work.u2);
          for (int64_t n = 0; n <= s.group; ++n) {
            const T* const x = work.u2 + (n * s.length + t) * s.padded;
            T* const y = n < s.group ? &args.q(b, t, s.head(g, n), 0) : &args.k(b, t, g, 0);
            const T scale = root * (n < s.group ? T(1) : beta) * inverse_norm(x, s.Dh, in.eps);
#pragma omp simd
            for (int64_t d = 0; d < s.Dh; ++d) y[d] = scale * x[d];
          }
        }
      }
  }
}

/// Sums of parameter gradients over blocks of sequences, [block][parameter's size].
template <class T>
struct PartialGradients {
  int64_t num_blocks;
  T *conv_a, *conv_a_bias, *conv_b, *conv_b_bias, *temperature;

  PartialGradients(Carver& carver, const CcaPrologueInputs<T>& in)
      // more blocks would cost memory and gain nothing once they outnumber the cores
      : num_blocks(std::min<int64_t>(in.query.size[0], 8)),
        conv_a(carver.take<T>(num_blocks * in.conv_a.numel())),
        conv_a_bias(carver.take<T>(num_blocks * in.conv_a_bias.size[0])),
        conv_b(carver.take<T>(num_blocks * in.conv_b.numel())),
        conv_b_bias(carver.take<T>(num_blocks * in.conv_b_bias.size[0])),
        temperature(carver.take<T>(num_blocks * in.temperature.size[0])) {}
};

/// One (sequence, group) of the backward pass.
template <class T>
class GroupBackward {
 public:
  GroupBackward(const CcaPrologueBackward<T>& args, const Sizes<T>& s, const PackedWeights<T>& weights,
                const Workspace<T>& work, int64_t b, int64_t g)
      : args_(args), in_(args.in), s_(s), weights_(weights), work_(work), b_(b), g_(g) {}

  /// Adds to dbias (of conv_a and conv_b, of all heads), to the workspace's dtaps and dmix, and to
  /// dtemperature.
  void run(T* dconv_a_bias, T* dconv_b_bias, T& dtemperature) const {
    for (int64_t n = 0; n <= s_.group; ++n)
      convolve(in_, s_, weights_, b_, s_.head(g_, n), work_.u1 + n * work_.u1_size(s_),
               work_.u2 + n * s_.length * s_.padded);
    T dbeta = 0;
    for (int64_t t = 0; t < s_.length; ++t) {
      add_means(in_, s_, b_, g_, t, work_.u2);
      for (int64_t n = 0; n <= s_.group; ++n) normalise_backward(n, t, dbeta);
      means_backward(t);
    }
    dtemperature +=
        in_.temperature_kind == CcaTemperature::exponential ? dbeta * temperature_of(in_, g_) : dbeta;
    for (int64_t n = 0; n <= s_.group; ++n) {
      const int64_t head = s_.head(g_, n);
      convolve_backward(n, dconv_a_bias + head * s_.Dh, dconv_b_bias + head * s_.Dh);
    }
  }

 private:
  /// Row of token t of head n.
  T* du2(int64_t n, int64_t t) const {
    return work_.du2 + n * work_.du2_size(s_) + (s_.halo + t) * s_.padded;
  }
  T* dinput(int64_t n, int64_t t) const {
    return n < s_.group ? &args_.dquery(b_, t, s_.head(g_, n), 0) : &args_.dkey(b_, t, g_, 0);
  }

  void normalise_backward(int64_t n, int64_t t, T& dbeta) const {
    const bool is_query = n < s_.group;
    const T* const x = work_.u2 + (n * s_.length + t) * s_.padded;
    const T* const dy = is_query ? &args_.dq(b_, t, s_.head(g_, n), 0) : &args_.dk(b_, t, g_, 0);
    const T inverse = inverse_norm(x, s_.Dh, in_.eps), root = std::sqrt(static_cast<T>(s_.Dh));
    T dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t d = 0; d < s_.Dh; ++d) dot += x[d] * dy[d];
    dot *= inverse;
    if (!is_query) dbeta += root * dot;
    const T scale = root * inverse * (is_query ? T(1) : temperature_of(in_, g_)), along = inverse * dot;
    T* const dx = du2(n, t);
#pragma omp simd
    for (int64_t d = 0; d < s_.Dh; ++d) dx[d] = scale * (dy[d] - along * x[d]);
  }

  /// The share of dquery and dkey that comes through the means; the convolutions add theirs later.
  void means_backward(int64_t t) const {
    for (int64_t n = 0; n <= s_.group; ++n) std::fill_n(dinput(n, t), s_.Dh, T(0));
    if (!in_.qk_mean) return;
    const T* const dk1 = du2(s_.group, t);
    T* const dk0 = dinput(s_.group, t);
    const T half = T(0.5), share = half / static_cast<T>(s_.group);
#pragma omp simd
    for (int64_t d = 0; d < s_.Dh; ++d) dk0[d] = half * dk1[d];
    for (int64_t n = 0; n < s_.group; ++n) {
      const T* const dq1 = du2(n, t);
      T* const dq0 = dinput(n, t);
#pragma omp simd
      for (int64_t d = 0; d < s_.Dh; ++d) {
        dq0[d] = half * dq1[d] + share * dk1[d];
        dk0[d] += half * dq1[d];
      }
    }
  }

  void convolve_backward(int64_t n, T* dconv_a_bias, T* dconv_b_bias) const {
    const int64_t head = s_.head(g_, n);
    const int rows = static_cast<int>(s_.length), width = static_cast<int>(s_.padded);
    const T* const u1 = work_.u1 + n * work_.u1_size(s_);
    for (int64_t t = 0; t < s_.length; ++t) {
      const T* const row = du2(n, t);
#pragma omp simd
      for (int64_t d = 0; d < s_.Dh; ++d) dconv_b_bias[d] += row[d];
    }
    for (int64_t j = 0; j < s_.taps_b; ++j)
      tile_gemm<TileWrite::accumulate>(static_cast<int>(s_.Dh), width, rows,
                                       TileOperand<T>{du2(n, 0), 1, s_.padded}, u1 + j * s_.padded, s_.padded,
                                       work_.dmix + (n * s_.taps_b + j) * s_.Dh * s_.padded, s_.padded);
    // Rows before token 0 have a gradient too: conv_a's bias reaches them.
    tile_gemm<TileWrite::overwrite>(
        rows + static_cast<int>(s_.halo), width, static_cast<int>(s_.taps_b) * width,
        TileOperand<T>{du2(n, -s_.halo), s_.padded, 1}, weights_.mix_back + head * weights_.mix_size(s_),
        s_.padded, work_.du1, s_.padded);
    const int64_t dx_stride = n < s_.group ? args_.dquery.stride[1] : args_.dkey.stride[1];
    causal_conv_backward(rows_of_head(in_, s_, b_, head), weights_.taps + head * s_.taps_a * s_.Dh, s_.Dh,
                         s_.taps_a, -s_.halo, s_.length, work_.du1, s_.padded,
                         work_.dtaps + n * s_.taps_a * s_.Dh, dconv_a_bias,
                         CausalRows<T>{.rows = dinput(n, 0), .stride = dx_stride});
  }

  const CcaPrologueBackward<T>& args_;
  const CcaPrologueInputs<T>& in_;
  const Sizes<T>& s_;
  const PackedWeights<T>& weights_;
  const Workspace<T>& work_;
  int64_t b_, g_;
};

/// Brings a group's dtaps and dmix into the order of the parameters.
template <class T>
void unpack_gradients(const Sizes<T>& s, const Workspace<T>& work, int64_t g, T* dconv_a, T* dconv_b) {
  for (int64_t n = 0; n <= s.group; ++n) {
    const int64_t head = s.head(g, n);
    T *const da = dconv_a + head * s.Dh * s.taps_a, *const db = dconv_b + head * s.Dh * s.Dh * s.taps_b;
    for (int64_t j = 0; j < s.taps_a; ++j)
      for (int64_t d = 0; d < s.Dh; ++d) da[d * s.taps_a + j] = work.dtaps[(n * s.taps_a + j) * s.Dh + d];
    for (int64_t j = 0; j < s.taps_b; ++j)
      for (int64_t o = 0; o < s.Dh; ++o)
        for (int64_t i = 0; i < s.Dh; ++i)
          db[(o * s.Dh + i) * s.taps_b + j] = work.dmix[((n * s.taps_b + j) * s.Dh + o) * s.padded + i];
  }
}

template <class T, int Rank>
View<T, 1> flattened(const View<T, Rank>& view) {
  View<T, 1> flat;
  flat.data = view.data;
  flat.size[0] = view.numel();
  flat.stride[0] = 1;
  return flat;
}

template <class T>
void cca_prologue_backward(const CcaPrologueBackward<T>& args, Stream& stream) {
  const auto& in = args.in;
  const Sizes<T> s(in);
  const auto num_threads = static_cast<size_t>(omp_get_max_threads());
  Carver count_shared(nullptr), count_thread(nullptr);
  PackedWeights<T>(count_shared, s, Direction::backward);
  PartialGradients<T>(count_shared, in);
  Workspace<T>(count_thread, s, Direction::backward);
  std::byte* const memory = stream.scratch(count_shared.used() + num_threads * count_thread.used()).data();
  Carver shared(memory);
  const PackedWeights<T> weights(shared, s, Direction::backward);
  const PartialGradients<T> partial(shared, in);
  weights.fill(in, s, Direction::backward);
  const int64_t channels = s.num_heads() * s.Dh, blocks = partial.num_blocks;
  std::fill_n(partial.conv_a_bias, blocks * channels, T(0));
  std::fill_n(partial.conv_b_bias, blocks * channels, T(0));
  std::fill_n(partial.temperature, blocks * s.K, T(0));
#pragma omp parallel if (s.is_worth_a_team())
  {
    Carver carver(memory + count_shared.used() +
                  static_cast<size_t>(omp_get_thread_num()) * count_thread.used());
    const Workspace<T> work(carver, s, Direction::backward);
    std::fill_n(work.u1, s.heads_per_group() * work.u1_size(s), T(0));
    std::fill_n(work.du2, s.heads_per_group() * work.du2_size(s), T(0));
#pragma omp for collapse(2)
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t g = 0; g < s.K; ++g) {
        std::fill_n(work.dtaps, s.heads_per_group() * s.taps_a * s.Dh, T(0));
        std::fill_n(work.dmix, s.heads_per_group() * work.dmix_size(s), T(0));
        for (int64_t b = s.B * block / blocks; b < s.B * (block + 1) / blocks; ++b)
          GroupBackward<T>(args, s, weights, work, b, g)
              .run(partial.conv_a_bias + block * channels, partial.conv_b_bias + block * channels,
                   partial.temperature[block * s.K + g]);
        unpack_gradients(s, work, g, partial.conv_a + block * in.conv_a.numel(),
                         partial.conv_b + block * in.conv_b.numel());
      }
  }
  add_blocks(partial.conv_a, blocks, flattened(args.dconv_a), args.accumulate_conv_a);
  add_blocks(partial.conv_a_bias, blocks, args.dconv_a_bias, args.accumulate_conv_a_bias);
  add_blocks(partial.conv_b, blocks, flattened(args.dconv_b), args.accumulate_conv_b);
  add_blocks(partial.conv_b_bias, blocks, args.dconv_b_bias, args.accumulate_conv_b_bias);
  add_blocks(partial.temperature, blocks, args.dtemperature, args.accumulate_temperature);
}

HEADWAY_KERNEL(cpu, cca_prologue_forward<float>);
HEADWAY_KERNEL(cpu, cca_prologue_forward<double>);
HEADWAY_KERNEL(cpu, cca_prologue_backward<float>);
HEADWAY_KERNEL(cpu, cca_prologue_backward<double>);

}  // namespace
}  // namespace headway
