// Rows of D values, a warp each: lanes take V neighbouring columns at a time, 16 bytes an access.
#pragma once

#include "kernels/cuda/launch.cuh"

namespace headway::cuda {

/// Calls f(d) for the first of each group of V columns of a lane.
template <int V, class F>
__device__ void for_columns(int64_t D, int lane, F f) {
  for (int64_t d = lane * V; d < D; d += kWarp * V) f(d);
}

/// V neighbouring values as they lie in memory, in whole registers: as numbers, or as bf16 one by one, they
/// would take twice as many.
template <class T, int V>
struct Packed {
  static constexpr bool kPairs = sizeof(T) == 2 && V % 2 == 0;
  using Word = std::conditional_t<kPairs || sizeof(T) == 4, uint32_t, uint16_t>;
  using Words = Pack<Word, static_cast<int>(sizeof(T) * V / sizeof(Word))>;
  using Access =
      std::conditional_t<sizeof(Words) == 16, uint4,
                         std::conditional_t<sizeof(Words) == 8, uint2,
                                            std::conditional_t<sizeof(Words) == 4, uint32_t, uint16_t>>>;
  Words words = {};

  __device__ void read(const T* from) { words = *reinterpret_cast<const Words*>(from); }
  __device__ void write(T* to) const { *reinterpret_cast<Words*>(to) = words; }

  /// As read and write, of what is not touched again soon: it leaves the caches before all else.
  __device__ void read_once(const T* from) {
    *reinterpret_cast<Access*>(&words) = __ldcs(reinterpret_cast<const Access*>(from));
  }
  __device__ void write_once(T* to) const {
    __stcs(reinterpret_cast<Access*>(to), *reinterpret_cast<const Access*>(&words));
  }

  __device__ void unpack(float (&to)[V]) const {
#pragma unroll
    for (int v = 0; v < V; ++v)
      if constexpr (kPairs)
        to[v] = __uint_as_float(v % 2 == 0 ? words.values[v / 2] << 16 : words.values[v / 2] & 0xffff0000u);
      else
        to[v] = __uint_as_float(static_cast<uint32_t>(words.values[v]) << (sizeof(T) == 2 ? 16 : 0));
  }
  __device__ void pack(const float (&from)[V]) {
    if constexpr (kPairs) {
#pragma unroll
      for (int v = 0; v < V; v += 2) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(from[v], from[v + 1]);
        words.values[v / 2] =
            __bfloat16_as_ushort(pair.x) | static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
      }
    } else if constexpr (sizeof(T) == 2) {
      words.values[0] = from_float<T>(from[0]).bits;
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) words.values[v] = __float_as_uint(from[v]);
    }
  }
};

template <class T, int V>
__device__ void load(const T* from, float (&to)[V]) {
  Packed<T, V> packed;
  packed.read(from);
  packed.unpack(to);
}

template <class T, int V>
__device__ void store(T* to, const float (&from)[V]) {
  Packed<T, V> packed;
  packed.pack(from);
  packed.write(to);
}

/// See write_once.
template <class T, int V>
__device__ void store_once(T* to, const float (&from)[V]) {
  Packed<T, V> packed;
  packed.pack(from);
  packed.write_once(to);
}

}  // namespace headway::cuda
