// Products of tiles of 64 x 64 by a block, in fp32 on the ordinary units: both factors go through panels in
// shared memory, kDepth terms of the sum at a time.
#pragma once

#include "kernels/cuda/launch.cuh"

namespace headway::cuda {

inline constexpr int kTile = 64, kDepth = 16;       // rows and columns, and terms loaded at a time
inline constexpr int kTileThreads = 256, kOwn = 4;  // a thread holds kOwn x kOwn of a tile
inline constexpr int kPerRow = kTile / kOwn;        // threads along a row of a tile
inline constexpr int kStride = kTile + 4;           // of a panel's rows: 16-byte aligned, few bank conflicts
inline constexpr int kPanel = kDepth * kStride;
static_assert(kPerRow * kPerRow == kTileThreads && kTileThreads * 4 == kDepth * kTile);

/// Rows of numbers in global memory, zero outside, times a factor per row.
template <class T>
struct Matrix {
  const T* data;
  int64_t stride, rows, width;
  const float* factor;  // null: one
  bool wide;

  /// Of one row, four columns from one that is a multiple of four.
  __device__ float4 four(int64_t row, int64_t column) const {
    float x[4] = {};
    if (row < rows && column < width) {
      const T* const from = data + row * stride + column;
      if (wide) {
        const auto pack = *reinterpret_cast<const Pack<T, 4>*>(from);
#pragma unroll
        for (int v = 0; v < 4; ++v) x[v] = to_float(pack.values[v]);
      } else {
#pragma unroll
        for (int v = 0; v < 4; ++v)
          if (column + v < width) x[v] = to_float(from[v]);
      }
      const float scale = factor ? factor[row] : 1.0f;
#pragma unroll
      for (int v = 0; v < 4; ++v) x[v] *= scale;
    }
    return make_float4(x[0], x[1], x[2], x[3]);
  }
};

/// panel[k][m] = x(m_first + m, k_first + k)
template <class T>
__device__ void load_rows(float* panel, const Matrix<T>& x, int64_t m_first, int64_t k_first) {
  const int m = threadIdx.x / (kDepth / 4), k = threadIdx.x % (kDepth / 4) * 4;
  const float4 values = x.four(m_first + m, k_first + k);
  panel[k * kStride + m] = values.x;
  panel[(k + 1) * kStride + m] = values.y;
  panel[(k + 2) * kStride + m] = values.z;
  panel[(k + 3) * kStride + m] = values.w;
}
/// panel[k][m] = x(k_first + k, m_first + m)
template <class T>
__device__ void load_columns(float* panel, const Matrix<T>& x, int64_t m_first, int64_t k_first) {
  const int k = threadIdx.x / (kTile / 4), m = threadIdx.x % (kTile / 4) * 4;
  *reinterpret_cast<float4*>(panel + k * kStride + m) = x.four(k_first + k, m_first + m);
}

using Tile = float[kOwn][kOwn];
__device__ inline int own_row() { return static_cast<int>(threadIdx.x) / kPerRow * kOwn; }
__device__ inline int own_column() { return static_cast<int>(threadIdx.x) % kPerRow * kOwn; }

/// sums[r][c] += sum over k of left[k][own row r] right[k][own column c]
__device__ inline void add_panel(Tile& sums, const float* left, const float* right) {
  left += own_row();
  right += own_column();
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    const float4 a = *reinterpret_cast<const float4*>(left + k * kStride);
    const float4 b = *reinterpret_cast<const float4*>(right + k * kStride);
    const float rows[kOwn] = {a.x, a.y, a.z, a.w}, columns[kOwn] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int r = 0; r < kOwn; ++r)
#pragma unroll
      for (int c = 0; c < kOwn; ++c) sums[r][c] += rows[r] * columns[c];
  }
}

/// sums += the product of two panels at a time; load(k) fills them from term k on.
template <class Load>
__device__ void add_product(Tile& sums, int64_t depth, const float* left, const float* right, Load load) {
  for (int64_t k = 0; k < depth; k += kDepth) {
    __syncthreads();
    load(k);
    __syncthreads();
    add_panel(sums, left, right);
  }
}

}  // namespace headway::cuda
