// Rows of few channels: `lanes` lanes of a warp share one, in blocks of (lanes, rows). A lane has up to P
// packs of V neighbouring channels, so that what is shared of a row goes through few shuffles.
#pragma once

#include <string>

#include "core/error.h"
#include "kernels/cuda/rows.cuh"

namespace headway::cuda {

inline constexpr int kSharedRowThreads = 128;

/// Calls f(offset) for the steps of a sum or maximum over the lanes of a row by __shfl_xor_sync, which leaves
/// it in each of them, in one fixed order. Every lane of the warp takes part.
template <class F>
__device__ void for_lane_offsets(F f) {
  for (int offset = blockDim.x / 2; offset > 0; offset /= 2) f(offset);
}
__device__ inline float lanes_sum(float x) {
  for_lane_offsets([&](int offset) { x += __shfl_xor_sync(0xffffffffu, x, offset); });
  return x;
}

/// The first of a lane's channels in its pack p.
template <int V>
__device__ unsigned channel(int p) {
  return (p * blockDim.x + threadIdx.x) * V;
}

/// Up to P packs of a row of D channels, zero where a lane has none.
template <class T, int V, int P>
struct Packs {
  Packed<T, V> packs[P];

  __device__ void read(const T* row, unsigned D) {
#pragma unroll
    for (int p = 0; p < P; ++p)
      if (channel<V>(p) < D) packs[p].read_once(row + channel<V>(p));
  }
};

/// Calls work(row, data) for the rows of a lane, with what read(row, data) has read while the row before was
/// worked on. All lanes of a warp go on as long as one of them has a row: work sees rows of N and more too,
/// with data of no meaning, and takes part in the shuffles.
template <class Data, class Read, class Work>
__device__ void for_rows(unsigned N, Data next, Read read, Work work) {
  const unsigned step = gridDim.x * blockDim.y, row_of_warp = threadIdx.y % (kWarp / blockDim.x);
  unsigned row = blockIdx.x * blockDim.y + threadIdx.y;
  if (row < N) read(row, next);
  while (row - row_of_warp < N) {
    const Data data = next;
    const unsigned at = row;
    row += step;
    if (row < N) read(row, next);
    work(at, data);
  }
}

/// Whether rows of D values in all of the arrays move in packs of 16 bytes.
template <class T>
bool has_wide_packs(int64_t D, std::initializer_list<const void*> arrays) {
  return D % static_cast<int64_t>(16 / sizeof(T)) == 0 &&
         std::ranges::all_of(arrays, [](const void* array) { return is_aligned(array, 16); });
}

/// Calls run(V, P, block) with V and P as types, for rows that are shared by packs of `channels` channels: 16
/// bytes a pack where the caller found all aligned so, else one channel, of which a lane has kMostPacks at
/// most.
template <class T, int kMostPacks = 8, class Run>
void with_packs(const char* name, int64_t rows, int64_t channels, bool wide, Run run) {
  constexpr int kWide = 16 / sizeof(T), kWidePacks = sizeof(T) / 2, kPacks = 8;
  HEADWAY_CHECK(rows < int64_t{1} << 31, ShapeError,
                std::string(name) + ": " + std::to_string(rows) +
                    " heads of tokens are more than the GPU kernel can take");
  HEADWAY_CHECK(channels <= kMostPacks * kWarp, ShapeError,
                std::string(name) + ": a head of more than " + std::to_string(kMostPacks * kWarp) +
                    " channels (or pairs) is wider than the GPU kernel takes");
  const auto go = [&]<int V, int P>() {
    unsigned lanes = 1;
    while (lanes * P * V < channels) lanes *= 2;
    run.template operator()<V, P>(dim3(lanes, kSharedRowThreads / lanes));
  };
  if (wide && channels <= kWide * kWidePacks * kWarp)
    go.template operator()<kWide, kWidePacks>();
  else if (channels <= kPacks * kWarp)
    go.template operator()<1, kPacks>();
  else
    go.template operator()<1, kMostPacks>();
}

/// As many blocks as run at a time; for_rows takes the other rows in turn.
template <class Kernel, class... Args>
void launch_rows(Kernel kernel, int64_t rows, dim3 block, Stream& stream, const Args&... args) {
  const unsigned blocks =
      std::min(blocks_for(rows, block.y), num_resident_blocks(kernel, kSharedRowThreads, 0, stream));
  kernel<<<blocks, block, 0, stream.native()>>>(args...);
}

}  // namespace headway::cuda
