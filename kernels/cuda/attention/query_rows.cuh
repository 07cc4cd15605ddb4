// The rows of queries that Hopper's kernels compute: all of them, or those that Slots::row_index lists.
//
// A head's listed rows are packed into tiles from its last row on. So the tile that is not full is the first,
// which sees the fewest keys.
#pragma once

#include <climits>

#include "kernels/cuda/launch.cuh"

namespace headway::cuda::hopper {

struct AllRows {
  static constexpr bool kAreListed = false;
};

struct ListedRows {
  static constexpr bool kAreListed = true;
  View<const int32_t, 3> index;  // [B,H,N]: ascending rows, -1 after the last
  const int* counts;             // [B,H]: how many there are
};

/// A head's rows in tiles of kRows. Slots of the first tile that hold no row come first.
template <int kRows>
struct PackedRows {
  const int32_t* rows;
  int64_t stride;
  int count, num_tiles, padding;  // one tile at least; slots without a row

  __device__ PackedRows(const ListedRows& list, int64_t b, int64_t h)
      : rows(&list.index(b, h, 0)),
        stride(list.index.stride[2]),
        count(list.counts[b * list.index.size[1] + h]),
        num_tiles(max((count + kRows - 1) / kRows, 1)),
        padding(num_tiles * kRows - count) {}
  /// That of the slot, or `otherwise` where it holds none.
  __device__ int row(int slot, int otherwise) const {
    return slot < padding ? otherwise : rows[(slot - padding) * stride];
  }
  /// That of the last row up to this one, which none need be: then it is the slot before the first row's.
  __device__ int slot_of_last(int row) const {
    int below = 0;
    for (int end = count; below < end;) {
      const int middle = (below + end) / 2;
      if (rows[middle * stride] <= row)
        below = middle + 1;
      else
        end = middle;
    }
    return padding + below - 1;
  }
};

/// How many of the rows that are listed for a head lie below the limit. For all threads of a block.
__device__ inline int count_rows_below(const View<const int32_t, 3>& index, int64_t b, int64_t h, int limit) {
  // The answer lies in first..first + length; each thread looks at the end of a part of those.
  int first = 0;
  for (int length = static_cast<int>(index.size[2]); length > 0;) {
    const int threads = static_cast<int>(blockDim.x), part = (length + threads - 1) / threads;
    const int at = static_cast<int>(threadIdx.x) * part + part - 1;
    const int row = at < length ? index(b, h, first + at) : -1;
    const int parts_below = __syncthreads_count(row >= 0 && row < limit);
    first += parts_below * part;
    length = min(part - 1, length - parts_below * part);
  }
  return first;
}

/// Zeros in the rows of x [B,T,H,Dh] and of y (may be absent) that are not listed, `number` in those of
/// numbers [B,H,T] (may be absent), and the counts [B,H] of the listed rows.
void clear_unlisted_rows(const View<const int32_t, 3>& index, const View<bf16, 4>& x, const View<bf16, 4>& y,
                         const View<float, 3>& numbers, float number, int* counts, Stream& stream);

}  // namespace headway::cuda::hopper
