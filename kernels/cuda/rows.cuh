// Rows of D values, a warp each: lanes take V neighbouring columns at a time, 16 bytes an access.
#pragma once

#include "kernels/cuda/launch.cuh"

namespace headway::cuda {

/// Calls f(d) for the first of each group of V columns of a lane.
template <int V, class F>
__device__ void for_columns(int64_t D, int lane, F f) {
  for (int64_t d = lane * V; d < D; d += kWarp * V) f(d);
}

template <class T, int V>
__device__ void load(const T* from, float (&to)[V]) {
  constexpr int kPack = V * sizeof(T) <= 16 ? V : static_cast<int>(16 / sizeof(T));
#pragma unroll
  for (int p = 0; p < V; p += kPack) {
    const auto pack = *reinterpret_cast<const Pack<T, kPack>*>(from + p);
#pragma unroll
    for (int v = 0; v < kPack; ++v) to[p + v] = to_float(pack.values[v]);
  }
}

template <class T, int V>
__device__ void store(T* to, const float (&from)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) pack.values[v] = from_float<T>(from[v]);
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

}  // namespace headway::cuda
