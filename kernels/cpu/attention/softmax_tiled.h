// The softmax core on the CPU, both directions, for any variant: tiles of kTileRows x kTileKeys scores, never
// the whole matrix. Equations in kernels/attention/softmax.h.
//
// Forward: keys (transposed) and values are copied once into tiles; then each (batch, head, query tile) runs
// on its own with an online softmax over the key tiles of the plan.
// Backward: each (batch, key/value head) runs on its own and passes once over its query tiles: dq of a tile
// stays in cache while the key tiles go by, dk and dv collect in private rows. Five products per tile pair.
// Every sum has a fixed order, so results do not depend on the number of threads.
//
// Computes in Acc<T>. Memory: O(B K Tk Dh) forward, O(Tk Dh) per thread backward, from the stream's scratch.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/attention/plan.h"
#include "kernels/attention/softmax.h"
#include "kernels/attention/softmax_reference.h"
#include "kernels/attention/weight_dropout.h"
#include "kernels/cpu/attention/tile_gemm.h"
#include "kernels/cpu/carver.h"

namespace headway {
namespace tiled {

// A score tile is 16 KiB in float, and two of them with the operands of one product stay in the second
// level cache; 64 is a multiple of every vector length.
inline constexpr int kTileRows = 64;
inline constexpr int kTileKeys = 64;
// With fewer rows than this, copying the keys costs more than the products save: decoding.
inline constexpr int kFewestRows = 8;

template <class A>
inline constexpr A kInfinity = std::numeric_limits<A>::infinity();

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

/// Channels of a row, and as many as whole vectors of them have.
struct Width {
  int dim, padded;
};

struct Sizes {
  int B, T, H, Tk, K;
  int group;         // query heads per key/value head
  int key_tiles;     // of kTileKeys
  Width key, value;  // Dh of queries and keys, Dv of values and outputs
};

template <class Args, class A>
Sizes sizes_of(const Args& args) {
  Sizes s{};
  s.B = static_cast<int>(args.q.size[0]), s.T = static_cast<int>(args.q.size[1]);
  s.H = static_cast<int>(args.q.size[2]);
  s.Tk = static_cast<int>(args.k.size[1]), s.K = static_cast<int>(args.k.size[2]);
  s.group = s.H / s.K;
  s.key_tiles = round_up(s.Tk, kTileKeys) / kTileKeys;
  const auto width = [](int64_t dim) {
    return Width{static_cast<int>(dim), round_up(static_cast<int>(dim), kLanes<A>)};
  };
  s.key = width(args.q.size[3]), s.value = width(args.v.size[3]);
  return s;
}

/// The keys and values of one (batch, key/value head) as operands of tile products.
template <class A>
struct KeyTiles {
  A* keys_transposed;    // [key_tiles][Dh][kTileKeys]
  A* values_transposed;  // [key_tiles][Dv][kTileKeys], for backward
  A* keys;               // [key_tiles * kTileKeys][padded Dh], for backward
  A* values;             // [key_tiles * kTileKeys][padded Dv], for forward
  A* bias;               // [key_tiles * kTileKeys]
  int* key_end;          // [key_tiles * kTileKeys]
  int* smallest_end;     // [key_tiles] of key_end in the tile
  int* largest_end;

  KeyTiles(Carver& carver, const Sizes& s, Slots slots, bool for_backward) {
    const int64_t rows = int64_t{s.key_tiles} * kTileKeys;
    keys_transposed = carver.take<A>(rows * s.key.dim);
    values_transposed = carver.take<A>(for_backward ? rows * s.value.dim : 0);
    keys = carver.take<A>(for_backward ? rows * s.key.padded : 0);
    values = carver.take<A>(for_backward ? 0 : rows * s.value.padded);
    bias = carver.take<A>(has(slots, Slots::key_bias) ? rows : 0);
    key_end = carver.take<int>(has(slots, Slots::key_end) ? rows : 0);
    smallest_end = carver.take<int>(has(slots, Slots::key_end) ? s.key_tiles : 0);
    largest_end = carver.take<int>(has(slots, Slots::key_end) ? s.key_tiles : 0);
  }
};

template <class A, class T>
void pack_transposed(const View<const T, 4>& x, int b, int kv, int tile, const Sizes& s, Width width, A* to) {
  const int first = tile * kTileKeys, count = std::min(kTileKeys, s.Tk - first);
  for (int c = 0; c < kTileKeys; ++c) {
    const T* row = c < count ? &x(b, first + c, kv, 0) : nullptr;
    for (int d = 0; d < width.dim; ++d) to[d * kTileKeys + c] = row ? static_cast<A>(row[d]) : A(0);
  }
}

template <class A, class T>
void pack_rows(const View<const T, 4>& x, int b, int kv, int tile, const Sizes& s, Width width, A* to) {
  const int first = tile * kTileKeys, count = std::min(kTileKeys, s.Tk - first);
  for (int c = 0; c < kTileKeys; ++c)
    for (int d = 0; d < width.padded; ++d)
      to[c * width.padded + d] =
          c < count && d < width.dim ? static_cast<A>((&x(b, first + c, kv, 0))[d]) : A(0);
}

/// Fills tile number `tile` of what this direction and these slots need.
template <class V, class A, class Args>
void pack_key_tile(const Args& args, int b, int kv, int tile, const Sizes& s, const KeyTiles<A>& to) {
  const int first = tile * kTileKeys;
  pack_transposed(args.k, b, kv, tile, s, s.key, to.keys_transposed + int64_t{first} * s.key.dim);
  if constexpr (requires { args.dout; }) {
    pack_transposed(args.v, b, kv, tile, s, s.value, to.values_transposed + int64_t{first} * s.value.dim);
    pack_rows(args.k, b, kv, tile, s, s.key, to.keys + int64_t{first} * s.key.padded);
  } else {
    pack_rows(args.v, b, kv, tile, s, s.value, to.values + int64_t{first} * s.value.padded);
  }
  const int last = std::min(first + kTileKeys, s.Tk);
  if constexpr (has(V::slots, Slots::key_bias))
    for (int j = first; j < last; ++j) to.bias[j] = args.slots.key_bias(b, kv, j);
  if constexpr (has(V::slots, Slots::key_end)) {
    to.smallest_end[tile] = std::numeric_limits<int>::max();
    to.largest_end[tile] = std::numeric_limits<int>::min();
    for (int j = first; j < last; ++j) {
      to.key_end[j] = args.slots.key_end(b, kv, j);
      to.smallest_end[tile] = std::min(to.smallest_end[tile], to.key_end[j]);
      to.largest_end[tile] = std::max(to.largest_end[tile], to.key_end[j]);
    }
  }
}

/// The rows of q in one query tile, ascending.
struct RowTile {
  int row[kTileRows];
  int count;
};

/// Number of rows head h computes, and those of one of its tiles.
template <class V, class Args>
int count_rows(const Args& args, int b, int h, const Sizes& s) {
  if constexpr (has(V::slots, Slots::row_index)) {
    const auto& index = args.slots.row_index;
    int count = 0;
    while (count < index.size[2] && index(b, h, count) >= 0) ++count;
    return count;
  }
  return s.T;
}
template <class V, class Args>
RowTile rows_of_tile(const Args& args, int b, int h, int first, int num_rows) {
  RowTile tile{};
  tile.count = std::min(kTileRows, num_rows - first);
  for (int r = 0; r < tile.count; ++r) {
    if constexpr (has(V::slots, Slots::row_index))
      tile.row[r] = args.slots.row_index(b, h, first + r);
    else
      tile.row[r] = first + r;
  }
  return tile;
}

enum class TileUse { skipped, masked, whole };

/// A query tile's dealings with the mask: which key tiles it visits and what each row sees.
template <class V, class A>
class TileMask {
 public:
  TileMask(const TilePlan<V>& plan, const RowTile& rows, const KeyTiles<A>& key_tiles)
      : plan_(plan),
        key_tiles_(key_tiles),
        first_(rows.row[0]),
        last_(rows.row[rows.count - 1]),
        keys_(plan.keys_of(first_, last_)) {
    for (int r = 0; r < rows.count; ++r) {
      position_[r] = plan.query_offset + rows.row[r];
      for (int n = 0; n < V::intervals; ++n) {
        begin_[r][n] = plan.begin(rows.row[r], n);
        end_[r][n] = plan.end(rows.row[r], n);
      }
    }
  }
  int first_tile() const { return keys_.first / kTileKeys; }
  int end_tile() const { return keys_.first < keys_.last ? (keys_.last + kTileKeys - 1) / kTileKeys : 0; }
  /// Keys of the tile that some row may see are its first width().
  int width(int tile) const { return std::min(kTileKeys, keys_.last - tile * kTileKeys); }
  TileUse use(int tile) const {
    const int k0 = tile * kTileKeys, k1 = k0 + kTileKeys - 1;
    bool visited = plan_.visits(first_, last_, k0, k1);
    bool whole = plan_.is_whole(first_, last_, k0, k1);
    if constexpr (has(V::slots, Slots::key_end)) {
      visited = visited && plan_.query_offset + first_ < key_tiles_.largest_end[tile];
      whole = whole && plan_.query_offset + last_ < key_tiles_.smallest_end[tile];
    }
    return !visited ? TileUse::skipped : whole ? TileUse::whole : TileUse::masked;
  }
  int position(int r) const { return position_[r]; }
  bool sees(int r, int key) const {
    bool visible = false;
#pragma GCC unroll 4
    for (int n = 0; n < V::intervals; ++n) visible |= (begin_[r][n] <= key) & (key < end_[r][n]);
    if constexpr (has(V::slots, Slots::key_end)) visible &= position_[r] < key_tiles_.key_end[key];
    return visible;
  }

 private:
  const TilePlan<V> plan_;
  const KeyTiles<A> key_tiles_;
  int first_, last_;
  IndexRange keys_;
  int position_[kTileRows];
  int begin_[kTileRows][V::intervals];
  int end_[kTileRows][V::intervals];
};

template <class V, class Args>
TilePlan<V> plan_of(const Args& args, const Sizes& s) {
  return {args.params, static_cast<int>(args.query_offset), s.T, s.Tk};
}

/// Copies rows of x, times a factor, to [count][padded width] with zeros behind the channels.
template <class A, class T>
void load_rows(const View<const T, 4>& x, int b, int h, const RowTile& rows, Width width, A factor, A* to) {
  for (int r = 0; r < rows.count; ++r) {
    const T* from = &x(b, rows.row[r], h, 0);
    A* row = to + r * width.padded;
    for (int d = 0; d < width.dim; ++d) row[d] = static_cast<A>(from[d]) * factor;
    for (int d = width.dim; d < width.padded; ++d) row[d] = 0;
  }
}

template <class V, class A, class Args>
A row_scale(const Args& args, int b, int h, int t) {
  if constexpr (has(V::slots, Slots::row_scale)) return args.slots.row_scale(b, h, t);
  return 1;
}
template <class V, class A, class Args>
A row_bias(const Args& args, int b, int h, int t) {
  if constexpr (has(V::slots, Slots::row_bias)) return args.slots.row_bias(b, h, t);
  return 0;
}

/// Z of weight_dropout.h for row t and the keys of a tile; none without dropout.
template <class V, class A>
struct KeptWeights {
  template <class Args>
  KeptWeights(const Args&, int, int, int, int) {}
  A factor(int) const { return 1; }
};
template <class V, class A>
requires V::drops_weights struct KeptWeights<V, A> {
  A factors[kTileKeys];

  template <class Args>
  KeptWeights(const Args& args, int b, int h, int t, int tile) {
    const WeightDropout& dropout = args.params.dropout;
    const int row = WeightDropout::second(t);
    for (int c = 0; c < kTileKeys; c += 16)
#pragma omp simd
      for (int n = c; n < c + 8; ++n) {
        const PhiloxBlock words = dropout.block(b, h, t, tile * kTileKeys + n);
        const auto factor_of = [&](int second) {
          return dropout.keeps(words.word[WeightDropout::word(row, second)]) ? static_cast<A>(dropout.scale)
                                                                             : A(0);
        };
        factors[n] = factor_of(0);
        factors[n + 8] = factor_of(1);
      }
  }
  A factor(int c) const { return factors[c]; }
};

template <class A>
struct ForwardTile {
  A* q;        // [kTileRows][padded Dh], times the scale
  A* scores;   // [kTileRows][kTileKeys]: S, then the unnormalised P
  A* visible;  // the same: 1 where visible, for C
  A* y;        // [kTileRows][padded Dv]: unnormalised Y
  A* c;        // the same: C
  A* maximum;  // [kTileRows]
  A* sum;      // [kTileRows]

  ForwardTile(Carver& carver, const Sizes& s, Slots slots) {
    const bool with_sum = has(slots, Slots::row_bias);
    q = carver.take<A>(int64_t{kTileRows} * s.key.padded);
    scores = carver.take<A>(kTileRows * kTileKeys);
    visible = carver.take<A>(with_sum ? kTileRows * kTileKeys : 0);
    y = carver.take<A>(int64_t{kTileRows} * s.value.padded);
    c = carver.take<A>(with_sum ? int64_t{kTileRows} * s.value.padded : 0);
    maximum = carver.take<A>(kTileRows);
    sum = carver.take<A>(kTileRows);
  }
};

/// The exponential of weight policies.
struct VectorExp {
  template <class A>
  A operator()(A x) const {
    return vector_exp(x);
  }
};

/// Scores of row r become weights, each a function of its score alone.
template <bool Masked, class V, class A, class Args>
requires(!HasLogSumExp<V>) void weigh_row(const Args& args, int b, int h, int r, int tile, int width,
                                          const TileMask<V, A>& mask, const KeyTiles<A>& keys, const Sizes& s,
                                          ForwardTile<A>& work) {
  A* score = work.scores + r * kTileKeys;
  const int k0 = tile * kTileKeys, position = mask.position(r);
  const int t = position - static_cast<int>(args.query_offset), kv = h / s.group;
  const typename V::Params params = args.params;
  const KeptWeights<V, A> kept(args, b, h, t, tile);
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int c = 0; c < width; ++c) {
    const Coord at{b, h, position, k0 + c};
    A x = score_of<V>(params, score[c], learned_of<V, A>(args.slots, params, kv, t, at), at);
    if constexpr (has(V::slots, Slots::key_bias)) x += keys.bias[k0 + c];
    const bool visible = !Masked || mask.sees(r, k0 + c);
    const A weight = visible ? V::Weight::weight(x, VectorExp{}) : A(0);
    if constexpr (has(V::slots, Slots::row_bias)) work.visible[r * kTileKeys + c] = visible ? A(1) : A(0);
    score[c] = weight * kept.factor(c);
    sum += weight;
  }
  work.sum[r] += sum;
}

/// One step of the online softmax for row r: scores become weights relative to the row's new maximum, and
/// what was summed before is brought to it.
template <bool Masked, class V, class A, class Args>
requires HasLogSumExp<V>
void weigh_row(const Args& args, int b, int h, int r, int tile, int width, const TileMask<V, A>& mask,
               const KeyTiles<A>& keys, const Sizes& s, ForwardTile<A>& work) {
  A* score = work.scores + r * kTileKeys;
  const int k0 = tile * kTileKeys;
  const int position = mask.position(r);
  const int t = position - static_cast<int>(args.query_offset), kv = h / s.group;
  const typename V::Params params = args.params;
  A maximum = work.maximum[r];
#pragma omp simd reduction(max : maximum)
  for (int c = 0; c < width; ++c) {
    const Coord at{b, h, position, k0 + c};
    A x = score_of<V>(params, score[c], learned_of<V, A>(args.slots, params, kv, t, at), at);
    if constexpr (has(V::slots, Slots::key_bias)) x += keys.bias[k0 + c];
    if constexpr (Masked) x = mask.sees(r, k0 + c) ? x : -kInfinity<A>;
    score[c] = x;
    maximum = x > maximum ? x : maximum;
  }
  if constexpr (has(V::slots, Slots::row_bias))
    for (int c = 0; c < width; ++c)
      work.visible[r * kTileKeys + c] = !Masked || mask.sees(r, k0 + c) ? A(1) : A(0);
  // A row that has seen nothing yet keeps weights of 0 instead of exp(-inf + inf).
  const A base = maximum == -kInfinity<A> ? A(0) : maximum;
  if (maximum > work.maximum[r]) {
    const A factor = std::exp(work.maximum[r] - base);
    work.maximum[r] = maximum;
    work.sum[r] *= factor;
    A* y = work.y + r * s.value.padded;
#pragma omp simd
    for (int d = 0; d < s.value.padded; ++d) y[d] *= factor;
  }
  const KeptWeights<V, A> kept(args, b, h, t, tile);
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int c = 0; c < width; ++c) {
    const A weight = vector_exp(score[c] - base);
    score[c] = weight * kept.factor(c);
    sum += weight;
  }
  work.sum[r] += sum;
}

template <class V, class T, class A>
void forward_tile(const SoftmaxForward<V, T>& args, int b, int h, const RowTile& rows,
                  const KeyTiles<A>& keys, const Sizes& s, ForwardTile<A>& work) {
  const int P = s.value.padded;
  const TileMask<V, A> mask(plan_of<V>(args, s), rows, keys);
  load_rows(args.q, b, h, rows, s.key, static_cast<A>(args.scale), work.q);
  std::fill_n(work.y, rows.count * P, A(0));
  if constexpr (has(V::slots, Slots::row_bias)) std::fill_n(work.c, rows.count * P, A(0));
  A first_maximum = HasLogSumExp<V> ? -kInfinity<A> : A(0), first_sum = 0;
  if constexpr (has(V::slots, Slots::sink)) first_maximum = args.slots.sink(h), first_sum = 1;
  std::fill_n(work.maximum, rows.count, first_maximum);
  std::fill_n(work.sum, rows.count, first_sum);

  for (int tile = mask.first_tile(); tile < mask.end_tile(); ++tile) {
    const TileUse use = mask.use(tile);
    if (use == TileUse::skipped) continue;
    const int width = mask.width(tile);
    const A* values = keys.values + int64_t{tile} * kTileKeys * P;
    tile_gemm<TileWrite::overwrite>(
        rows.count, round_up(width, kLanes<A>), s.key.dim, TileOperand<A>{work.q, s.key.padded, 1},
        keys.keys_transposed + int64_t{tile} * kTileKeys * s.key.dim, kTileKeys, work.scores, kTileKeys);
    for (int r = 0; r < rows.count; ++r) {
      if (use == TileUse::masked)
        weigh_row<true>(args, b, h, r, tile, width, mask, keys, s, work);
      else
        weigh_row<false>(args, b, h, r, tile, width, mask, keys, s, work);
    }
    tile_gemm<TileWrite::accumulate>(rows.count, P, width, TileOperand<A>{work.scores, kTileKeys, 1}, values,
                                     P, work.y, P);
    if constexpr (has(V::slots, Slots::row_bias))
      tile_gemm<TileWrite::accumulate>(rows.count, P, width, TileOperand<A>{work.visible, kTileKeys, 1},
                                       values, P, work.c, P);
  }

  for (int r = 0; r < rows.count; ++r) {
    const int t = rows.row[r];
    // A sum of zero means a row without keys. A sum that is NaN is not zero, so it reaches the output.
    const A sum = V::Weight::is_normalised ? work.sum[r] : A(1), inverse = sum == 0 ? A(0) : 1 / sum;
    args.log_sum_exp(b, h, t) = sum == 0 ? -kInfinity<A> : work.maximum[r] + std::log(sum);
    const A scale = row_scale<V, A>(args, b, h, t), bias = row_bias<V, A>(args, b, h, t);
    T* o = &args.o(b, t, h, 0);
    for (int d = 0; d < s.value.dim; ++d) {
      const A y = work.y[r * P + d] * inverse;
      A u = scale * y;
      if constexpr (has(V::slots, Slots::row_bias)) u += bias * work.c[r * P + d];
      o[d] = static_cast<T>(u);
      if constexpr (kScalesRows<V>)
        if (args.y) args.y(b, t, h, d) = static_cast<T>(y);
    }
  }
}

/// Rows that row_index does not list give zero; every row is cleared before the listed ones are computed.
template <class V, class T>
void clear_forward(const SoftmaxForward<V, T>& args, int b, int h, const Sizes& s) {
  for (int t = 0; t < s.T; ++t) {
    args.log_sum_exp(b, h, t) = -kInfinity<Acc<T>>;
    std::fill_n(&args.o(b, t, h, 0), s.value.dim, T(0));
    if (kScalesRows<V> && args.y) std::fill_n(&args.y(b, t, h, 0), s.value.dim, T(0));
  }
}

template <class A>
struct BackwardTile {
  A* q;          // [kTileRows][padded Dh], times the scale
  A* dout;       // [kTileRows][padded Dv]: G
  A* dq;         // [kTileRows][padded Dh]: gradient of q times the scale
  A* scores;     // [kTileRows][kTileKeys]: S, then dS
  A* weights;    // the same: dP, then r P + beta
  A* norm;       // [kTileRows]: row_norm, 0 for rows without a key
  A* row_dot;    // D
  A* centre;     // D where weights are normalised, else 0
  A* row_scale;  // r
  A* row_bias;   // beta
  A* dbias;      // dbeta
  A* dk;         // [key_tiles * kTileKeys][padded Dh]
  A* dv;         // [key_tiles * kTileKeys][padded Dv]
  A* ddelta;     // [key_tiles * kTileKeys]
  A* drow;       // [kTileRows]: gradient of row_parameter
  A* dkey;       // [key_tiles * kTileKeys]: of key_parameter

  BackwardTile(Carver& carver, const Sizes& s, Slots slots) {
    const int64_t keys = int64_t{s.key_tiles} * kTileKeys;
    q = carver.take<A>(int64_t{kTileRows} * s.key.padded);
    dout = carver.take<A>(int64_t{kTileRows} * s.value.padded);
    dq = carver.take<A>(int64_t{kTileRows} * s.key.padded);
    scores = carver.take<A>(kTileRows * kTileKeys);
    weights = carver.take<A>(kTileRows * kTileKeys);
    norm = carver.take<A>(kTileRows);
    row_dot = carver.take<A>(kTileRows);
    centre = carver.take<A>(kTileRows);
    row_scale = carver.take<A>(kTileRows);
    row_bias = carver.take<A>(kTileRows);
    dbias = carver.take<A>(kTileRows);
    dk = carver.take<A>(keys * s.key.padded);
    dv = carver.take<A>(keys * s.value.padded);
    ddelta = carver.take<A>(keys);
    drow = carver.take<A>(has(slots, Slots::row_parameter) ? kTileRows : 0);
    dkey = carver.take<A>(has(slots, Slots::key_parameter) ? keys : 0);
  }
};

/// Zero where the pair is not visible.
template <class V, class A>
WeightAndSlope<A> visible_weight(bool visible, A x, A norm) {
  if constexpr (HasLogSumExp<V>) {
    const A weight = vector_exp(visible ? x - norm : -kInfinity<A>);
    return {weight, weight};
  } else {
    const WeightAndSlope<A> pair = pair_weight<V>(x, norm, VectorExp{});
    return {visible ? pair.value : A(0), visible ? pair.slope : A(0)};
  }
}

/// From S and dP of row r to dS and r P + beta.
template <bool Masked, class V, class A, class Args>
void differentiate_row(const Args& args, int b, int h, int r, int tile, int width, const TileMask<V, A>& mask,
                       const KeyTiles<A>& keys, const Sizes& s, BackwardTile<A>& work, A* dhead) {
  A* score = work.scores + r * kTileKeys;
  A* weight = work.weights + r * kTileKeys;
  const int k0 = tile * kTileKeys;
  A* ddelta = work.ddelta + k0;
  const int position = mask.position(r);
  const int t = position - static_cast<int>(args.query_offset), kv = h / s.group;
  const typename V::Params params = args.params;
  const A norm = work.norm[r], centre = work.centre[r], scale = work.row_scale[r], bias = work.row_bias[r];
  const KeptWeights<V, A> kept(args, b, h, t, tile);
  A dbias = 0, drow = 0;
  [[maybe_unused]] A of_head[has(V::slots, Slots::head_parameter) ? kTileKeys : 1];
#pragma omp simd reduction(+ : dbias, drow)
  for (int c = 0; c < width; ++c) {
    const Coord at{b, h, position, k0 + c};
    const bool visible = !Masked || mask.sees(r, k0 + c);
    const Learned<A> learned = learned_of<V, A>(args.slots, params, kv, t, at);
    A x = score_of<V>(params, score[c], learned, at);
    if constexpr (has(V::slots, Slots::key_bias)) x += keys.bias[k0 + c];
    const auto [p, slope] = visible_weight<V>(visible, x, norm);
    const A dp = weight[c];
    const A da = slope * scale * (kept.factor(c) * dp - centre);
    const ScoreSlopes<A> slopes = score_slopes<V>(params, score[c], learned, at);
    score[c] = visible ? da * slopes.score : A(0);
    if constexpr (has(V::slots, Slots::head_parameter))
      of_head[c] = visible ? da * slopes.learned.head : A(0);
    if constexpr (has(V::slots, Slots::row_parameter)) drow += visible ? da * slopes.learned.row : A(0);
    if constexpr (has(V::slots, Slots::key_parameter))
      work.dkey[k0 + c] += visible ? da * slopes.learned.key : A(0);
    if constexpr (has(V::slots, Slots::key_bias)) ddelta[c] += da;
    if constexpr (has(V::slots, Slots::row_bias)) {
      weight[c] = visible ? scale * p * kept.factor(c) + bias : A(0);
      dbias += visible ? dp : A(0);
    } else {
      weight[c] = scale * p * kept.factor(c);
    }
  }
  work.dbias[r] += dbias;
  if constexpr (has(V::slots, Slots::row_parameter)) work.drow[r] += drow;
  if constexpr (has(V::slots, Slots::head_parameter))
    for (int c = 0; c < width; ++c) dhead[parameter_index<V>(params, {b, h, position, k0 + c})] += of_head[c];
}

template <class V, class T, class A>
void backward_tile(const SoftmaxBackward<V, T>& args, int b, int h, const RowTile& rows,
                   const KeyTiles<A>& keys, const Sizes& s, BackwardTile<A>& work, A& dsink, A* dhead) {
  const int P = s.key.padded, Pv = s.value.padded;
  const TileMask<V, A> mask(plan_of<V>(args, s), rows, keys);
  const A scale = static_cast<A>(args.scale);
  load_rows(args.q, b, h, rows, s.key, scale, work.q);
  load_rows(args.dout, b, h, rows, s.value, A(1), work.dout);
  std::fill_n(work.dq, rows.count * P, A(0));
  for (int r = 0; r < rows.count; ++r) {
    const int t = rows.row[r];
    const A lse = args.log_sum_exp(b, h, t);
    const T* y = &args.y(b, t, h, 0);
    A row_dot = 0;
#pragma omp simd reduction(+ : row_dot)
    for (int d = 0; d < s.value.dim; ++d) row_dot += work.dout[r * Pv + d] * static_cast<A>(y[d]);
    work.norm[r] = lse == -kInfinity<A> ? A(0) : row_norm<V>(lse, VectorExp{});
    work.row_scale[r] = row_scale<V, A>(args, b, h, t);
    row_dot = row_dot_of<V>(row_dot, work.row_scale[r]);
    work.row_dot[r] = row_dot;
    work.centre[r] = V::Weight::is_normalised ? row_dot : A(0);
    work.row_bias[r] = row_bias<V, A>(args, b, h, t);
    work.dbias[r] = 0;
    if constexpr (has(V::slots, Slots::row_parameter)) work.drow[r] = 0;
    if constexpr (has(V::slots, Slots::sink))
      dsink -= std::exp(args.slots.sink(h) - lse) * work.row_scale[r] * row_dot;
  }

  for (int tile = mask.first_tile(); tile < mask.end_tile(); ++tile) {
    const TileUse use = mask.use(tile);
    if (use == TileUse::skipped) continue;
    const int width = mask.width(tile), columns = round_up(width, kLanes<A>);
    const int64_t first_key = int64_t{tile} * kTileKeys;
    tile_gemm<TileWrite::overwrite>(rows.count, columns, s.key.dim, TileOperand<A>{work.q, P, 1},
                                    keys.keys_transposed + first_key * s.key.dim, kTileKeys, work.scores,
                                    kTileKeys);
    tile_gemm<TileWrite::overwrite>(rows.count, columns, s.value.dim, TileOperand<A>{work.dout, Pv, 1},
                                    keys.values_transposed + first_key * s.value.dim, kTileKeys, work.weights,
                                    kTileKeys);
    for (int r = 0; r < rows.count; ++r) {
      if (use == TileUse::masked)
        differentiate_row<true>(args, b, h, r, tile, width, mask, keys, s, work, dhead);
      else
        differentiate_row<false>(args, b, h, r, tile, width, mask, keys, s, work, dhead);
    }
    tile_gemm<TileWrite::accumulate>(rows.count, P, width, TileOperand<A>{work.scores, kTileKeys, 1},
                                     keys.keys + first_key * P, P, work.dq, P);
    tile_gemm<TileWrite::accumulate>(width, P, rows.count, TileOperand<A>{work.scores, 1, kTileKeys}, work.q,
                                     P, work.dk + first_key * P, P);
    tile_gemm<TileWrite::accumulate>(width, Pv, rows.count, TileOperand<A>{work.weights, 1, kTileKeys},
                                     work.dout, Pv, work.dv + first_key * Pv, Pv);
  }

  for (int r = 0; r < rows.count; ++r) {
    const int t = rows.row[r];
    T* dq = &args.dq(b, t, h, 0);
    for (int d = 0; d < s.key.dim; ++d) dq[d] = static_cast<T>(scale * work.dq[r * P + d]);
    if (args.dslots.row_scale) args.dslots.row_scale(b, h, t) = work.row_dot[r];
    if (args.dslots.row_bias) args.dslots.row_bias(b, h, t) = work.dbias[r];
    if constexpr (has(V::slots, Slots::row_parameter))
      if (args.dslots.row_parameter) args.dslots.row_parameter(b, h, t) = work.drow[r];
  }
}

/// Gradients of the rows that row_index does not list are zero.
template <class V, class T>
void clear_backward(const SoftmaxBackward<V, T>& args, int b, int h, const Sizes& s) {
  for (int t = 0; t < s.T; ++t) {
    std::fill_n(&args.dq(b, t, h, 0), s.key.dim, T(0));
    detail::clear_row_gradients(args.dslots, b, h, t);
  }
}

/// Gradients of what belongs to a query head, of each sequence: summed up over them in the end.
template <class A>
struct HeadGradients {
  A* sink;             // [B,H]
  A* parameter;        // [B,H,num_parameters]
  int num_parameters;  // of a head
};

/// Everything that belongs to one key/value head: all query heads of its group, one after the other.
template <class V, class T, class A>
void backward_kv_head(const SoftmaxBackward<V, T>& args, int b, int kv, const KeyTiles<A>& keys,
                      const Sizes& s, BackwardTile<A>& work, HeadGradients<A> heads) {
  const int64_t key_rows = int64_t{s.key_tiles} * kTileKeys;
  for (int tile = 0; tile < s.key_tiles; ++tile) pack_key_tile<V>(args, b, kv, tile, s, keys);
  std::fill_n(work.dk, key_rows * s.key.padded, A(0));
  std::fill_n(work.dv, key_rows * s.value.padded, A(0));
  std::fill_n(work.ddelta, key_rows, A(0));
  if constexpr (has(V::slots, Slots::key_parameter)) std::fill_n(work.dkey, key_rows, A(0));
  for (int h = kv * s.group; h < (kv + 1) * s.group; ++h) {
    if constexpr (has(V::slots, Slots::row_index)) clear_backward(args, b, h, s);
    A& dsink = heads.sink[b * s.H + h] = 0;
    A* const dhead = heads.parameter + (int64_t{b} * s.H + h) * heads.num_parameters;
    std::fill_n(dhead, heads.num_parameters, A(0));
    const int num_rows = count_rows<V>(args, b, h, s);
    for (int first = 0; first < num_rows; first += kTileRows)
      backward_tile(args, b, h, rows_of_tile<V>(args, b, h, first, num_rows), keys, s, work, dsink, dhead);
  }
  for (int j = 0; j < s.Tk; ++j) {
    T *dk = &args.dk(b, j, kv, 0), *dv = &args.dv(b, j, kv, 0);
    for (int d = 0; d < s.key.dim; ++d) dk[d] = static_cast<T>(work.dk[int64_t{j} * s.key.padded + d]);
    for (int d = 0; d < s.value.dim; ++d) dv[d] = static_cast<T>(work.dv[int64_t{j} * s.value.padded + d]);
    if (args.dslots.key_bias) args.dslots.key_bias(b, kv, j) = work.ddelta[j];
    if constexpr (has(V::slots, Slots::key_parameter))
      if (args.dslots.key_parameter) args.dslots.key_parameter(b, kv, j) = work.dkey[j];
  }
}

/// Bytes that Buffers(carver, arguments...) takes.
template <class Buffers, class... Arguments>
size_t bytes_of(const Arguments&... arguments) {
  Carver counter(nullptr);
  Buffers(counter, arguments...);
  return counter.used();
}

}  // namespace tiled

template <class V, class T>
void softmax_tiled_forward(const SoftmaxForward<V, T>& args, Stream& stream) {
  using A = Acc<T>;
  const tiled::Sizes s = tiled::sizes_of<SoftmaxForward<V, T>, A>(args);
  if (s.T < tiled::kFewestRows) return softmax_reference_forward<Exact<A>>(args, stream);

  const size_t key_bytes = tiled::bytes_of<tiled::KeyTiles<A>>(s, V::slots, false);
  const size_t tile_bytes = tiled::bytes_of<tiled::ForwardTile<A>>(s, V::slots);
  const size_t num_threads = static_cast<size_t>(omp_get_max_threads());
  const size_t num_kv_heads = static_cast<size_t>(s.B) * s.K;
  std::byte* const key_memory = stream.scratch(num_kv_heads * key_bytes + num_threads * tile_bytes).data();
  std::byte* const tile_memory = key_memory + num_kv_heads * key_bytes;
  const auto key_tiles = [&](int b, int kv) {
    Carver carver(key_memory + (static_cast<size_t>(b) * s.K + kv) * key_bytes);
    return tiled::KeyTiles<A>(carver, s, V::slots, false);
  };
  const int query_tiles = (s.T + tiled::kTileRows - 1) / tiled::kTileRows;

#pragma omp parallel if (detail::is_worth_a_team(args))
  {
    Carver carver(tile_memory + static_cast<size_t>(omp_get_thread_num()) * tile_bytes);
    tiled::ForwardTile<A> work(carver, s, V::slots);
#pragma omp for collapse(3)
    for (int b = 0; b < s.B; ++b)
      for (int kv = 0; kv < s.K; ++kv)
        for (int tile = 0; tile < s.key_tiles; ++tile)
          tiled::pack_key_tile<V>(args, b, kv, tile, s, key_tiles(b, kv));
    if constexpr (has(V::slots, Slots::row_index)) {
#pragma omp for collapse(2)
      for (int b = 0; b < s.B; ++b)
        for (int h = 0; h < s.H; ++h) tiled::clear_forward(args, b, h, s);
    }
#pragma omp for collapse(3) schedule(dynamic)
    for (int b = 0; b < s.B; ++b)
      for (int h = 0; h < s.H; ++h)
        for (int tile = 0; tile < query_tiles; ++tile) {
          const int first = (query_tiles - 1 - tile) * tiled::kTileRows;  // the longest rows first
          const int num_rows = tiled::count_rows<V>(args, b, h, s);
          if (first < num_rows)
            tiled::forward_tile(args, b, h, tiled::rows_of_tile<V>(args, b, h, first, num_rows),
                                key_tiles(b, h / s.group), s, work);
        }
  }
}

template <class V, class T>
void softmax_tiled_backward(const SoftmaxBackward<V, T>& args, Stream& stream) {
  using A = Acc<T>;
  const tiled::Sizes s = tiled::sizes_of<SoftmaxBackward<V, T>, A>(args);
  const size_t key_bytes = tiled::bytes_of<tiled::KeyTiles<A>>(s, V::slots, true);
  const size_t tile_bytes = tiled::bytes_of<tiled::BackwardTile<A>>(s, V::slots);
  const size_t num_threads = static_cast<size_t>(omp_get_max_threads());
  const size_t num_heads = static_cast<size_t>(s.B) * s.H;
  const int num_parameters = has(V::slots, Slots::head_parameter) ? V::num_head_parameters(args.params) : 0;
  const size_t head_bytes = num_heads * (1 + static_cast<size_t>(num_parameters)) * sizeof(A);
  std::byte* const memory = stream.scratch(num_threads * (key_bytes + tile_bytes) + head_bytes).data();
  A* const of_heads = reinterpret_cast<A*>(memory + num_threads * (key_bytes + tile_bytes));
  const tiled::HeadGradients<A> heads{of_heads, of_heads + num_heads, num_parameters};

#pragma omp parallel if (detail::is_worth_a_team(args))
  {
    Carver carver(memory + static_cast<size_t>(omp_get_thread_num()) * (key_bytes + tile_bytes));
    const tiled::KeyTiles<A> keys(carver, s, V::slots, true);
    tiled::BackwardTile<A> work(carver, s, V::slots);
#pragma omp for collapse(2) schedule(dynamic)
    for (int b = 0; b < s.B; ++b)
      for (int kv = 0; kv < s.K; ++kv) tiled::backward_kv_head(args, b, kv, keys, s, work, heads);
  }
  for (int h = 0; h < s.H && args.dslots.sink; ++h) {
    A sum = 0;
    for (int b = 0; b < s.B; ++b) sum += heads.sink[b * s.H + h];
    args.dslots.sink(h) = sum;
  }
  for (int h = 0; h < s.H && args.dslots.head_parameter; ++h)
    for (int p = 0; p < num_parameters; ++p) {
      A sum = 0;
      for (int b = 0; b < s.B; ++b) sum += heads.parameter[(int64_t{b} * s.H + h) * num_parameters + p];
      args.dslots.head_parameter(h, p) = sum;
    }
}

}  // namespace headway
