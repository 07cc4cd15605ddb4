// A (batch, head) is worked on alone, a few rows of both weight matrices at a time, so every sum has a fixed
// order.
#include "kernels/ops/attention_transfer.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/attention/tile_gemm.h"

namespace headway {
namespace {

constexpr int kRows = 32;

constexpr int whole_vectors(int64_t n, int lanes) {
  return static_cast<int>((n + lanes - 1) / lanes) * lanes;
}

/// Keys and features of one head as operands of tile products, and a few rows of scores and weights.
template <class T>
class Head {
 public:
  Head(const AttentionTransferInputs<T>& in, int64_t b, int64_t h)
      : in_(in),
        b_(b),
        h_(h),
        length_(static_cast<int>(in.q.size[1])),
        width_(static_cast<int>(in.q.size[3])),
        num_features_(static_cast<int>(in.fq.size[3])),
        columns_(whole_vectors(length_, kLanes<T>)),
        keys_(transposed(in.k)),
        features_(transposed(in.fk)),
        scores_(static_cast<size_t>(kRows) * columns_),
        weights_(scores_.size()) {}

  int length() const { return length_; }
  int num_features() const { return num_features_; }
  int columns() const { return columns_; }
  T* score_row(int r) { return scores_.data() + static_cast<size_t>(r) * columns_; }
  T* weight_row(int r) { return weights_.data() + static_cast<size_t>(r) * columns_; }

  /// Scores and weights of the rows first .. first + count, against the keys before first + count.
  void compute(int first, int count) {
    const int columns = whole_vectors(first + count, kLanes<T>);
    product(in_.q, first, count, columns, width_, keys_, scores_);
    product(in_.fq, first, count, columns, num_features_, features_, weights_);
  }

  struct RowSums {
    T log_sum_exp;  // of the scaled scores
    T weights;      // n
  };
  RowSums sums(int i, int r) {
    T* const s = score_row(r);
    const T* const w = weight_row(r);
    const T scale = static_cast<T>(in_.scale);
    T largest = s[0] * scale, sum = 0, total = 0;
    for (int j = 0; j <= i; ++j) {
      s[j] *= scale;
      largest = std::max(largest, s[j]);
      total += w[j];
    }
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j <= i; ++j) sum += vector_exp(s[j] - largest);
    return {largest + std::log(sum), total};
  }

 private:
  std::vector<T> transposed(const View<const T, 4>& x) const {
    const int64_t width = x.size[3];
    std::vector<T> to(static_cast<size_t>(width * columns_));
    for (int j = 0; j < length_; ++j)
      for (int64_t d = 0; d < width; ++d) to[d * columns_ + j] = x(b_, j, h_, d);
    return to;
  }
  void product(const View<const T, 4>& rows, int first, int count, int columns, int depth,
               const std::vector<T>& with, std::vector<T>& to) const {
    const TileOperand<T> a{&rows(b_, first, h_, 0), rows.size[2] * rows.size[3], 1};
    tile_gemm<TileWrite::overwrite>(count, columns, depth, a, with.data(), columns_, to.data(), columns_);
  }

  const AttentionTransferInputs<T>& in_;
  int64_t b_, h_;
  int length_, width_, num_features_, columns_;
  std::vector<T> keys_, features_;   // [Dh or F][columns]
  std::vector<T> scores_, weights_;  // [kRows][columns]
};

template <class T>
void attention_transfer_forward(const AttentionTransferForward<T>& args, Stream&) {
  const int64_t B = args.in.q.size[0], H = args.in.q.size[2];
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h) {
      Head<T> head(args.in, b, h);
      for (int first = 0; first < head.length(); first += kRows) {
        const int count = std::min(kRows, head.length() - first);
        head.compute(first, count);
        for (int r = 0; r < count; ++r) {
          const int i = first + r;
          const auto [log_sum_exp, n] = head.sums(i, r);
          const T *const s = head.score_row(r), *const w = head.weight_row(r);
          T divergence = 0;
          for (int j = 0; j <= i; ++j) {
            const T log_a = s[j] - log_sum_exp;
            divergence += std::exp(log_a) * (log_a - std::log(std::max(w[j] / n, T(kTransferFloor))));
          }
          args.divergence(b, h, i) = divergence;
        }
      }
    }
  double sum = 0;
  for (int64_t i = 0; i < args.divergence.numel(); ++i) sum += static_cast<double>(args.divergence.data[i]);
  args.loss(0) = static_cast<T>(sum / static_cast<double>(args.divergence.numel()));
}

template <class T>
void attention_transfer_backward(const AttentionTransferBackward<T>& args, Stream&) {
  const int64_t B = args.in.q.size[0], H = args.in.q.size[2];
  const T gradient = args.dloss(0) / static_cast<T>(B * H * args.in.q.size[1]);
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h) {
      Head<T> head(args.in, b, h);
      const int length = head.length(), F = head.num_features(), padded = whole_vectors(F, kLanes<T>);
      const auto rows_of = [&](const View<const T, 4>& x, int first, int count) {
        std::vector<T> rows(static_cast<size_t>(count) * padded);
        for (int r = 0; r < count; ++r) std::copy_n(&x(b, first + r, h, 0), F, &rows[r * padded]);
        return rows;
      };
      const std::vector<T> key_features = rows_of(args.in.fk, 0, length);
      std::vector<T> dkey_features(key_features.size()), dquery_features(static_cast<size_t>(kRows) * padded);
      for (int first = 0; first < length; first += kRows) {
        const int count = std::min(kRows, length - first);
        head.compute(first, count);
        for (int r = 0; r < count; ++r) {
          const int i = first + r;
          const auto [log_sum_exp, n] = head.sums(i, r);
          T *const a = head.score_row(r), *const w = head.weight_row(r);
          T above_floor = 0;
          for (int j = 0; j <= i; ++j) {
            const bool is_above = w[j] / n >= T(kTransferFloor);
            a[j] = is_above ? std::exp(a[j] - log_sum_exp) : T(0);
            above_floor += a[j];
          }
          for (int j = 0; j <= i; ++j) w[j] = gradient * (above_floor / n - (a[j] > 0 ? a[j] / w[j] : T(0)));
          std::fill(w + i + 1, w + head.columns(), T(0));
        }
        const int keys = first + count;
        const T* const dw = head.weight_row(0);
        tile_gemm<TileWrite::overwrite>(count, padded, keys, TileOperand<T>{dw, head.columns(), 1},
                                        key_features.data(), padded, dquery_features.data(), padded);
        for (int r = 0; r < count; ++r)
          std::copy_n(&dquery_features[r * padded], F, &args.dfq(b, first + r, h, 0));
        const std::vector<T> query_features = rows_of(args.in.fq, first, count);
        tile_gemm<TileWrite::accumulate>(keys, padded, count, TileOperand<T>{dw, 1, head.columns()},
                                         query_features.data(), padded, dkey_features.data(), padded);
      }
      for (int j = 0; j < length; ++j) std::copy_n(&dkey_features[j * padded], F, &args.dfk(b, j, h, 0));
    }
}

HEADWAY_KERNEL(cpu, attention_transfer_forward<float>);
HEADWAY_KERNEL(cpu, attention_transfer_forward<double>);
HEADWAY_KERNEL(cpu, attention_transfer_backward<float>);
HEADWAY_KERNEL(cpu, attention_transfer_backward<double>);

}  // namespace
}  // namespace headway
