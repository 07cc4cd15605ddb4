// Small matrix products on tiles that lie in the first cache levels: C = A B or C += A B, with B and C
// row-major and A read by single elements, so that A^T costs the same as A. Written with the compiler's
// vector types; a block of C stays in registers for the whole sum, in a fixed order.
#pragma once

#include <cstdint>

#include "kernels/cpu/vector_math.h"

namespace headway {

/// Element (i, k) of A is data[i * row_stride + k * column_stride].
template <class T>
struct TileOperand {
  const T* data;
  int64_t row_stride;
  int64_t column_stride;
};

enum class TileWrite { overwrite, accumulate };

namespace detail {

// Rows and vectors of the block of C in registers: 24 of 32 registers with AVX-512, else 12 of 16.
inline constexpr int kBlockRows = 6;
inline constexpr int kBlockVectors = kVectorBytes == 64 ? 4 : 2;

template <TileWrite Write, int Rows, int Vectors, class T>
inline void gemm_block(int depth, TileOperand<T> a, const T* b, int64_t b_stride, T* c, int64_t c_stride) {
  constexpr int L = kLanes<T>;
  Vector<T> sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int n = 0; n < Vectors; ++n) {
      if constexpr (Write == TileWrite::accumulate)
        sum[i][n] = *reinterpret_cast<const Vector<T>*>(c + i * c_stride + n * L);
      else
        sum[i][n] = Vector<T>{};
    }
  for (int k = 0; k < depth; ++k) {
    Vector<T> row[Vectors];
#pragma GCC unroll 8
    for (int n = 0; n < Vectors; ++n) row[n] = *reinterpret_cast<const Vector<T>*>(b + k * b_stride + n * L);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const T factor = a.data[i * a.row_stride + k * a.column_stride];
#pragma GCC unroll 8
      for (int n = 0; n < Vectors; ++n) sum[i][n] += factor * row[n];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int n = 0; n < Vectors; ++n) *reinterpret_cast<Vector<T>*>(c + i * c_stride + n * L) = sum[i][n];
}

template <TileWrite Write, int Vectors, class T>
void gemm_columns(int rows, int depth, TileOperand<T> a, const T* b, int64_t b_stride, T* c,
                  int64_t c_stride) {
  int i = 0;
  for (; i + kBlockRows <= rows; i += kBlockRows)
    gemm_block<Write, kBlockRows, Vectors>(depth, {a.data + i * a.row_stride, a.row_stride, a.column_stride},
                                           b, b_stride, c + i * c_stride, c_stride);
  const TileOperand<T> rest{a.data + i * a.row_stride, a.row_stride, a.column_stride};
  c += i * c_stride;
  switch (rows - i) {
    case 5:
      return gemm_block<Write, 5, Vectors>(depth, rest, b, b_stride, c, c_stride);
    case 4:
      return gemm_block<Write, 4, Vectors>(depth, rest, b, b_stride, c, c_stride);
    case 3:
      return gemm_block<Write, 3, Vectors>(depth, rest, b, b_stride, c, c_stride);
    case 2:
      return gemm_block<Write, 2, Vectors>(depth, rest, b, b_stride, c, c_stride);
    case 1:
      return gemm_block<Write, 1, Vectors>(depth, rest, b, b_stride, c, c_stride);
    default:
      return;
  }
}

}  // namespace detail

/// C [rows, columns] from A [rows, depth] and B [depth, columns]; columns must be a multiple of kLanes<T>.
template <TileWrite Write, class T>
void tile_gemm(int rows, int columns, int depth, TileOperand<T> a, const T* b, int64_t b_stride, T* c,
               int64_t c_stride) {
  constexpr int L = kLanes<T>, kWide = detail::kBlockVectors * L;
  int n = 0;
  for (; n + kWide <= columns; n += kWide)
    detail::gemm_columns<Write, detail::kBlockVectors>(rows, depth, a, b + n, b_stride, c + n, c_stride);
  for (; n + 2 * L <= columns; n += 2 * L)
    detail::gemm_columns<Write, 2>(rows, depth, a, b + n, b_stride, c + n, c_stride);
  for (; n < columns; n += L)
    detail::gemm_columns<Write, 1>(rows, depth, a, b + n, b_stride, c + n, c_stride);
}

}  // namespace headway
