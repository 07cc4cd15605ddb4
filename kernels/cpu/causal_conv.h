// Depthwise causal convolution of one sequence over time, the last tap at the token itself:
//   y[t,c] = bias[c] + sum_j taps[j,c] x[t - (K-1) + j, c]
#pragma once

#include <algorithm>
#include <cstdint>

namespace headway {

/// Rows of one sequence: those from token 0 on, and before them `num_before` rows of history. All others are
/// zero, and so is a history without memory. T is const for rows to read.
template <class T>
struct CausalRows {
  T* rows = nullptr;
  int64_t stride = 0;
  T* before = nullptr;
  int64_t before_stride = 0;
  int64_t num_before = 0;

  /// Null where the row is zero. t must lie before the end of the sequence.
  T* row(int64_t t) const {
    if (t >= 0) return rows + t * stride;
    return before && t >= -num_before ? before + (num_before + t) * before_stride : nullptr;
  }
};

/// Weights [C,K] as taps [K][C].
template <class T>
void pack_taps(const T* weight, int64_t C, int64_t K, T* taps) {
  for (int64_t j = 0; j < K; ++j)
    for (int64_t c = 0; c < C; ++c) taps[j * C + c] = weight[c * K + j];
}

/// y[t] for first <= t < end; y points at row `first`. bias may be null.
template <class T>
void causal_conv_forward(const CausalRows<const T>& x, const T* taps, const T* bias, int64_t C, int64_t K,
                         int64_t first, int64_t end, T* y, int64_t y_stride) {
  for (int64_t t = first; t < end; ++t, y += y_stride) {
    if (bias)
      std::copy_n(bias, C, y);
    else
      std::fill_n(y, C, T(0));
    for (int64_t j = 0; j < K; ++j) {
      const T* const from = x.row(t - (K - 1) + j);
      const T* const tap = taps + j * C;
      if (!from) continue;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) y[c] += tap[c] * from[c];
    }
  }
}

/// From dy of the rows first <= t < end: adds to dtaps, dbias (may be null) and those rows of dx that have
/// memory. dy points at row `first`.
template <class T>
void causal_conv_backward(const CausalRows<const T>& x, const T* taps, int64_t C, int64_t K, int64_t first,
                          int64_t end, const T* dy, int64_t dy_stride, T* dtaps, T* dbias,
                          const CausalRows<T>& dx) {
  for (int64_t t = first; t < end; ++t, dy += dy_stride) {
    if (dbias) {
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) dbias[c] += dy[c];
    }
    for (int64_t j = 0; j < K; ++j) {
      const int64_t source = t - (K - 1) + j;
      if (const T* const from = x.row(source)) {
        T* const dtap = dtaps + j * C;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) dtap[c] += dy[c] * from[c];
      }
      if (T* const to = dx.row(source)) {
        const T* const tap = taps + j * C;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) to[c] += tap[c] * dy[c];
      }
    }
  }
}

}  // namespace headway
