// Elementwise kernels: y_i = f(i, x_i, ...) on contiguous arrays of any mix of types, 16 bytes a thread and
// access.
//
//   map(n, stream, "gelu", [] __device__(int64_t, float x, float& y) { y = ...; }, in(x.data), out(y.data));
#pragma once

#include "kernels/cuda/launch.cuh"

namespace headway::cuda {

template <class T, bool Reads, bool Writes>
struct Array {
  using Element = T;
  static constexpr bool reads = Reads, writes = Writes;
  T* data;
};
template <class T>
Array<const T, true, false> in(const T* data) {
  return {data};
}
template <class T>
Array<T, false, true> out(T* data) {
  return {data};
}
template <class T>
Array<T, true, true> in_out(T* data) {
  return {data};
}

/// V elements of an array as floats.
template <class A, int V>
struct Lanes {
  using T = std::remove_const_t<typename A::Element>;
  static constexpr int kPack = V * sizeof(T) <= 16 ? V : static_cast<int>(16 / sizeof(T));
  A array;
  float values[V];

  __device__ explicit Lanes(A a) : array(a) {}
  __device__ void load(int64_t i) {
    if constexpr (A::reads) {
#pragma unroll
      for (int p = 0; p < V; p += kPack) {
        const auto pack = *reinterpret_cast<const Pack<T, kPack>*>(array.data + i + p);
#pragma unroll
        for (int v = 0; v < kPack; ++v) values[p + v] = to_float(pack.values[v]);
      }
    }
  }
  __device__ void store(int64_t i) const {
    if constexpr (A::writes) {
#pragma unroll
      for (int p = 0; p < V; p += kPack) {
        Pack<T, kPack> pack;
#pragma unroll
        for (int v = 0; v < kPack; ++v) pack.values[v] = from_float<T>(values[p + v]);
        *reinterpret_cast<Pack<T, kPack>*>(array.data + i + p) = pack;
      }
    }
  }
};

template <int V, class F, class... L>
__device__ void map_lanes(int64_t i, F f, L... lanes) {
  (lanes.load(i), ...);
#pragma unroll
  for (int v = 0; v < V; ++v) f(i + v, lanes.values[v]...);
  (lanes.store(i), ...);
}

template <int V, class F, class... A>
__global__ void map_kernel(int64_t n, F f, A... arrays) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  if (i + V <= n) {
    map_lanes<V>(i, f, Lanes<A, V>(arrays)...);
  } else {
    for (int64_t j = i; j < n; ++j) map_lanes<1>(j, f, Lanes<A, 1>(arrays)...);
  }
}

template <class F, class... A>
void map(int64_t n, Stream& stream, const char* name, F f, A... arrays) {
  if (n == 0) return;
  constexpr int kThreads = 256, kVector = 8;
  if ((is_aligned(arrays.data, 16) && ...))
    map_kernel<kVector><<<blocks_for(n, kThreads * kVector), kThreads, 0, stream.native()>>>(n, f, arrays...);
  else
    map_kernel<1><<<blocks_for(n, kThreads), kThreads, 0, stream.native()>>>(n, f, arrays...);
  check_launch(name);
}

}  // namespace headway::cuda
