// Chunks of kChunk tokens: within a chunk products of queries and keys, between chunks the state. Backward
// sweeps forward for the gradient of the queries, which needs the state, and back for those of keys and
// values, which need its gradient. Each (batch, head) runs on its own, so results do not depend on the number
// of threads. Time O(T), memory O(F V + kChunk (F + V)) per thread.
//
// The length of a chunk, a multiple of every vector length, changes no result but by rounding.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attention/tile_gemm.h"
#include "kernels/cpu/carver.h"
#include "kernels/cpu/dot.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/ops/linear_attention.h"

namespace headway::chunked {

template <class T>
int64_t padded(int64_t n) {
  return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

/// One head of one sequence: row t of a [B,T,H,width] tensor.
template <class T>
struct HeadRows {
  T* data;
  int64_t stride, width;

  HeadRows(const View<T, 4>& x, int64_t b, int64_t h)
      : data(&x(b, 0, h, 0)), stride(x.stride[1]), width(x.size[3]) {}
  T* row(int64_t t) const { return data + t * stride; }
};

template <class T>
using Rows = HeadRows<const T>;

/// Rows first .. first + count as the left operand of a product, or their transpose.
template <class T>
TileOperand<T> left(const Rows<T>& x, int64_t first) {
  return {x.row(first), x.stride, 1};
}
template <class T>
TileOperand<T> left_transposed(const Rows<T>& x, int64_t first) {
  return {x.row(first), 1, x.stride};
}

template <TileWrite Write, class T>
void product(int64_t rows, int64_t columns, int64_t depth, TileOperand<T> a, const T* b, int64_t b_stride,
             T* c, int64_t c_stride) {
  tile_gemm<Write>(static_cast<int>(rows), static_cast<int>(padded<T>(columns)), static_cast<int>(depth), a,
                   b, b_stride, c, c_stride);
}

/// to [count][padded(width)]: row i is scale[i] x[first + i], or x itself without scales.
template <class T>
void pack_rows(const Rows<T>& x, int64_t first, int64_t count, const T* scale, T* to) {
  const int64_t stride = padded<T>(x.width);
  for (int64_t i = 0; i < count; ++i) {
    const T* const from = x.row(first + i);
    T* const row = to + i * stride;
    const T factor = scale ? scale[i] : T(1);
#pragma omp simd
    for (int64_t c = 0; c < x.width; ++c) row[c] = factor * from[c];
    std::fill(row + x.width, row + stride, T(0));
  }
}

/// to [width][kChunk], columns from count on zero.
template <int64_t kChunk, class T>
void pack_transposed(const Rows<T>& x, int64_t first, int64_t count, T* to) {
  for (int64_t c = 0; c < x.width; ++c) {
    for (int64_t i = 0; i < count; ++i) to[c * kChunk + i] = x.row(first + i)[c];
    std::fill(to + c * kChunk + count, to + (c + 1) * kChunk, T(0));
  }
}

/// y = keep y + factor x
template <class T>
void decay_and_add(T* y, T keep, T factor, const T* x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = keep * y[i] + factor * x[i];
}

/// y (+)= factor x
template <class T>
void add_or_set(T* y, bool add, T factor, const T* x, int64_t n) {
  if (!add) std::fill_n(y, n, T(0));
  decay_and_add(y, T(1), factor, x, n);
}

/// How much is left of what, within one chunk of tokens.
template <class T, int64_t kChunk>
struct ChunkDecay {
  bool per_token;
  T log_sum[kChunk];      // of the decays up to and with each token
  T step[kChunk];         // of the state before each token, at that token
  T since_start[kChunk];  // of the state before the chunk, at each token
  T until_end[kChunk];    // of each token, at the last one
  T whole;                // of the state before the chunk, at the last token
};

/// What both directions share for one head.
template <class T, int64_t kChunk>
struct Head {
  static_assert(kChunk % kLanes<T> == 0);

  const LinearAttentionInputs<T>& in;
  int64_t b, h, length, F, V;
  Rows<T> q, k, v, norm_q, norm_k;
  T decay[kChunk + 1];  // exp(-s i)

  Head(const LinearAttentionInputs<T>& in_, int64_t b_, int64_t h_)
      : in(in_),
        b(b_),
        h(h_),
        length(in.q.size[1]),
        F(in.q.size[3]),
        V(in.v.size[3]),
        q(in.q, b, h),
        k(in.k, b, h),
        v(in.v, b, h),
        norm_q(in.norm_q ? in.norm_q : in.q, b, h),
        norm_k(in.norm_k ? in.norm_k : in.k, b, h) {
    const T slope = in.slope ? in.slope(h) : T(0);
    for (int64_t i = 0; i <= kChunk; ++i) decay[i] = std::exp(-slope * static_cast<T>(i));
  }
  T eps(int64_t t) const { return in.token_eps ? in.token_eps(b, t, h) : static_cast<T>(in.eps); }
  int64_t count(int64_t first) const { return std::min(kChunk, length - first); }

  ChunkDecay<T, kChunk> chunk_decay(int64_t first, int64_t n) const {
    ChunkDecay<T, kChunk> d;
    d.per_token = static_cast<bool>(in.log_decay);
    T sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (d.per_token) sum += in.log_decay(b, first + i, h);
      d.log_sum[i] = sum;
    }
    for (int64_t i = 0; i < n; ++i) {
      d.step[i] = d.per_token ? std::exp(in.log_decay(b, first + i, h)) : decay[1];
      d.since_start[i] = d.per_token ? std::exp(d.log_sum[i]) : decay[i + 1];
      d.until_end[i] = d.per_token ? std::exp(sum - d.log_sum[i]) : decay[n - 1 - i];
    }
    d.whole = d.per_token ? std::exp(sum) : decay[n];
    return d;
  }
  /// products [count][kChunk] become what is left of token j at token i times themselves where j <= i, else
  /// 0.
  void apply_causal_decay(const ChunkDecay<T, kChunk>& d, T* products, int64_t rows) const {
    for (int64_t i = 0; i < rows; ++i) {
      T* const row = products + i * kChunk;
      if (d.per_token) {
#pragma omp simd
        for (int64_t j = 0; j <= i; ++j) row[j] *= vector_exp(d.log_sum[i] - d.log_sum[j]);
      } else {
        for (int64_t j = 0; j <= i; ++j) row[j] *= decay[i - j];
      }
      std::fill(row + i + 1, row + kChunk, T(0));
    }
  }
  /// A [F][state_width] matrix to S [F][padded V] and Z [F]; zero without memory.
  void load_state(const View<const T, 4>& from, T* S, T* Z) const {
    const int64_t stride = padded<T>(V);
    std::fill_n(S, F * stride, T(0));
    std::fill_n(Z, F, T(0));
    if (!from) return;
    for (int64_t f = 0; f < F; ++f) {
      const T* const row = &from(b, h, f, 0);
      std::copy_n(row, V, S + f * stride);
      if (in.normalise) Z[f] = row[V];
    }
  }
  void store_state(const T* S, const T* Z, const View<T, 4>& to) const {
    for (int64_t f = 0; f < F; ++f) {
      T* const row = &to(b, h, f, 0);
      std::copy_n(S + f * padded<T>(V), V, row);
      if (in.normalise) row[V] = Z[f];
    }
  }
};

template <class T, int64_t kChunk>
struct ForwardMemory {
  T *S, *Z, *keys, *values, *scores, *numerator;

  ForwardMemory(Carver& carver, int64_t F, int64_t V)
      : S(carver.take<T>(F * padded<T>(V))),
        Z(carver.take<T>(F)),
        keys(carver.take<T>(F * kChunk)),
        values(carver.take<T>(kChunk * padded<T>(V))),
        scores(carver.take<T>(kChunk * kChunk)),
        numerator(carver.take<T>(kChunk * padded<T>(V))) {}
};

template <class T, int64_t kChunk>
void forward_chunk(const LinearAttentionForward<T>& args, const Head<T, kChunk>& head,
                   const ForwardMemory<T, kChunk>& m, int64_t first) {
  const int64_t n = head.count(first), F = head.F, V = head.V, Vp = padded<T>(V);
  const ChunkDecay<T, kChunk> decay = head.chunk_decay(first, n);
  product<TileWrite::overwrite>(n, V, F, left(head.q, first), m.S, Vp, m.numerator, Vp);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < Vp; ++c) m.numerator[i * Vp + c] *= decay.since_start[i];
  pack_transposed<kChunk>(head.k, first, n, m.keys);
  product<TileWrite::overwrite>(n, kChunk, F, left(head.q, first), m.keys, kChunk, m.scores, kChunk);
  head.apply_causal_decay(decay, m.scores, n);
  pack_rows(head.v, first, n, static_cast<const T*>(nullptr), m.values);
  product<TileWrite::accumulate>(n, V, n, TileOperand<T>{m.scores, kChunk, 1}, m.values, Vp, m.numerator, Vp);

  pack_rows(head.v, first, n, decay.until_end, m.values);
  for (int64_t i = 0; i < F * Vp; ++i) m.S[i] *= decay.whole;
  product<TileWrite::accumulate>(F, V, n, left_transposed(head.k, first), m.values, Vp, m.S, Vp);

  const HeadRows<T> o(args.o, head.b, head.h);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t t = first + i;
    T inverse = 1;
    if (args.in.normalise) {
      decay_and_add(m.Z, decay.step[i], T(1), head.norm_k.row(t), F);
      const T denominator = dot(m.Z, head.norm_q.row(t), F) + head.eps(t);
      args.denominator(head.b, t, head.h) = denominator;
      inverse = T(1) / denominator;
    }
    for (int64_t c = 0; c < V; ++c) o.row(t)[c] = m.numerator[i * Vp + c] * inverse;
  }
}

template <class T, int64_t kChunk>
struct BackwardMemory {
  T *S, *S_transposed, *Z, *dn, *dd, *rows, *values, *transposed, *scores, *dscores, *result, *weights;

  BackwardMemory(Carver& carver, int64_t F, int64_t V)
      : S(carver.take<T>(F * padded<T>(V))),
        S_transposed(carver.take<T>(V * padded<T>(F))),
        Z(carver.take<T>(F)),
        dn(carver.take<T>(kChunk * padded<T>(V))),
        dd(carver.take<T>(kChunk)),
        rows(carver.take<T>(kChunk * padded<T>(F))),
        values(carver.take<T>(kChunk * padded<T>(V))),
        transposed(carver.take<T>(std::max(F, V) * kChunk)),
        scores(carver.take<T>(kChunk * kChunk)),
        dscores(carver.take<T>(kChunk * kChunk)),
        result(carver.take<T>(kChunk * std::max(padded<T>(F), padded<T>(V)))),
        weights(carver.take<T>(kChunk)) {}
};

template <class T, int64_t kChunk>
class HeadBackward {
 public:
  HeadBackward(const LinearAttentionBackward<T>& args, const Head<T, kChunk>& head,
               const BackwardMemory<T, kChunk>& m)
      : args_(args),
        head_(head),
        m_(m),
        dq_(args.dq, head.b, head.h),
        dk_(args.dk, head.b, head.h),
        dv_(args.dv, head.b, head.h),
        dnorm_q_(args.dnorm_q ? args.dnorm_q : args.dq, head.b, head.h),
        dnorm_k_(args.dnorm_k ? args.dnorm_k : args.dk, head.b, head.h) {}

  void run() const {
    head_.load_state(args_.in.state, m_.S, m_.Z);
    for (int64_t first = 0; first < head_.length; first += kChunk) queries(first);
    head_.load_state(args_.dstate, m_.S, m_.Z);
    const int64_t last = (head_.length - 1) / kChunk * kChunk;
    for (int64_t first = last; first >= 0; first -= kChunk) keys_and_values(first);
    if (args_.dstate_in) head_.store_state(m_.S, m_.Z, args_.dstate_in);
  }

 private:
  /// dn and dd of a chunk, and dscores = <dn_i, v_j> with decay.
  void load_chunk(const ChunkDecay<T, kChunk>& decay, int64_t first, int64_t n) const {
    const int64_t V = head_.V, Vp = padded<T>(V);
    const Rows<T> dout(args_.dout, head_.b, head_.h), o(args_.o, head_.b, head_.h);
    for (int64_t i = 0; i < n; ++i) {
      const T inverse = args_.in.normalise ? T(1) / args_.denominator(head_.b, first + i, head_.h) : T(1);
      m_.weights[i] = inverse;
      m_.dd[i] = -inverse * dot(dout.row(first + i), o.row(first + i), V);
    }
    pack_rows(dout, first, n, m_.weights, m_.dn);
    pack_transposed<kChunk>(head_.v, first, n, m_.transposed);
    product<TileWrite::overwrite>(n, kChunk, V, TileOperand<T>{m_.dn, Vp, 1}, m_.transposed, kChunk,
                                  m_.dscores, kChunk);
    head_.apply_causal_decay(decay, m_.dscores, n);
  }
  /// S_transposed = S^T
  void transpose_state() const {
    const int64_t F = head_.F, V = head_.V, Fp = padded<T>(F), Vp = padded<T>(V);
    for (int64_t c = 0; c < V; ++c) {
      for (int64_t f = 0; f < F; ++f) m_.S_transposed[c * Fp + f] = m_.S[f * Vp + c];
      std::fill(m_.S_transposed + c * Fp + F, m_.S_transposed + (c + 1) * Fp, T(0));
    }
  }

  /// dq of a chunk from the state before it, which moves on.
  void queries(int64_t first) const {
    const int64_t n = head_.count(first), F = head_.F, V = head_.V, Fp = padded<T>(F), Vp = padded<T>(V);
    const ChunkDecay<T, kChunk> decay = head_.chunk_decay(first, n);
    load_chunk(decay, first, n);
    transpose_state();
    product<TileWrite::overwrite>(n, F, V, TileOperand<T>{m_.dn, Vp, 1}, m_.S_transposed, Fp, m_.result, Fp);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t f = 0; f < Fp; ++f) m_.result[i * Fp + f] *= decay.since_start[i];
    pack_rows(head_.k, first, n, static_cast<const T*>(nullptr), m_.rows);
    product<TileWrite::accumulate>(n, F, n, TileOperand<T>{m_.dscores, kChunk, 1}, m_.rows, Fp, m_.result,
                                   Fp);
    for (int64_t i = 0; i < n; ++i) std::copy_n(m_.result + i * Fp, F, dq_.row(first + i));

    pack_rows(head_.v, first, n, decay.until_end, m_.values);
    for (int64_t i = 0; i < F * Vp; ++i) m_.S[i] *= decay.whole;
    product<TileWrite::accumulate>(F, V, n, left_transposed(head_.k, first), m_.values, Vp, m_.S, Vp);

    if (!args_.in.normalise) return;
    for (int64_t i = 0; i < n; ++i) {
      decay_and_add(m_.Z, decay.step[i], T(1), head_.norm_k.row(first + i), F);
      add_or_set(dnorm_q_.row(first + i), !args_.in.norm_q, m_.dd[i], m_.Z, F);
    }
  }

  /// dk and dv of a chunk from the gradient of the state after it, which moves back.
  void keys_and_values(int64_t first) const {
    const int64_t n = head_.count(first), F = head_.F, V = head_.V, Fp = padded<T>(F), Vp = padded<T>(V);
    const ChunkDecay<T, kChunk> decay = head_.chunk_decay(first, n);
    load_chunk(decay, first, n);
    transpose_state();
    product<TileWrite::overwrite>(n, F, V, left(head_.v, first), m_.S_transposed, Fp, m_.result, Fp);
    for (int64_t j = 0; j < n; ++j)
      for (int64_t f = 0; f < Fp; ++f) m_.result[j * Fp + f] *= decay.until_end[j];
    pack_rows(head_.q, first, n, static_cast<const T*>(nullptr), m_.rows);
    product<TileWrite::accumulate>(n, F, n, TileOperand<T>{m_.dscores, 1, kChunk}, m_.rows, Fp, m_.result,
                                   Fp);
    for (int64_t j = 0; j < n; ++j) std::copy_n(m_.result + j * Fp, F, dk_.row(first + j));

    pack_transposed<kChunk>(head_.k, first, n, m_.transposed);
    product<TileWrite::overwrite>(n, kChunk, F, left(head_.q, first), m_.transposed, kChunk, m_.scores,
                                  kChunk);
    head_.apply_causal_decay(decay, m_.scores, n);
    product<TileWrite::overwrite>(n, V, F, left(head_.k, first), m_.S, Vp, m_.result, Vp);
    for (int64_t j = 0; j < n; ++j)
      for (int64_t c = 0; c < Vp; ++c) m_.result[j * Vp + c] *= decay.until_end[j];
    product<TileWrite::accumulate>(n, V, n, TileOperand<T>{m_.scores, 1, kChunk}, m_.dn, Vp, m_.result, Vp);
    for (int64_t j = 0; j < n; ++j) std::copy_n(m_.result + j * Vp, V, dv_.row(first + j));

    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < Vp; ++c) m_.dn[i * Vp + c] *= decay.since_start[i];
    for (int64_t i = 0; i < F * Vp; ++i) m_.S[i] *= decay.whole;
    product<TileWrite::accumulate>(F, V, n, left_transposed(head_.q, first), m_.dn, Vp, m_.S, Vp);

    if (!args_.in.normalise) return;
    for (int64_t j = n - 1; j >= 0; --j) {
      const int64_t t = first + j;
      decay_and_add(m_.Z, T(1), m_.dd[j], head_.norm_q.row(t), F);
      add_or_set(dnorm_k_.row(t), !args_.in.norm_k, T(1), m_.Z, F);
      for (int64_t f = 0; f < F; ++f) m_.Z[f] *= decay.step[j];
    }
  }

  const LinearAttentionBackward<T>& args_;
  const Head<T, kChunk>& head_;
  const BackwardMemory<T, kChunk>& m_;
  HeadRows<T> dq_, dk_, dv_, dnorm_q_, dnorm_k_;
};

/// Calls run(head, memory) for every head of every sequence, with a Memory of its own per thread.
template <class Memory, int64_t kChunk, class T, class Run>
void for_each_head(const LinearAttentionInputs<T>& in, Stream& stream, const Run& run) {
  const int64_t B = in.q.size[0], H = in.q.size[2], F = in.q.size[3], V = in.v.size[3];
  const auto num_threads = static_cast<size_t>(omp_get_max_threads());
  Carver count(nullptr);
  Memory(count, F, V);
  std::byte* const scratch = stream.scratch(num_threads * count.used()).data();
#pragma omp parallel if (in.q.numel() >= kSmallestParallel)
  {
    Carver carver(scratch + static_cast<size_t>(omp_get_thread_num()) * count.used());
    const Memory memory(carver, F, V);
#pragma omp for collapse(2)
    for (int64_t b = 0; b < B; ++b)
      for (int64_t h = 0; h < H; ++h) run(Head<T, kChunk>(in, b, h), memory);
  }
}

template <int64_t kChunk, class T>
void linear_attention_forward(const LinearAttentionForward<T>& args, Stream& stream) {
  using Memory = ForwardMemory<T, kChunk>;
  for_each_head<Memory, kChunk>(args.in, stream, [&](const Head<T, kChunk>& head, const Memory& memory) {
    head.load_state(args.in.state, memory.S, memory.Z);
    for (int64_t first = 0; first < head.length; first += kChunk) forward_chunk(args, head, memory, first);
    head.store_state(memory.S, memory.Z, args.state);
  });
}

template <int64_t kChunk, class T>
void linear_attention_backward(const LinearAttentionBackward<T>& args, Stream& stream) {
  using Memory = BackwardMemory<T, kChunk>;
  for_each_head<Memory, kChunk>(args.in, stream, [&](const Head<T, kChunk>& head, const Memory& memory) {
    HeadBackward<T, kChunk>(args, head, memory).run();
  });
}

}  // namespace headway::chunked
