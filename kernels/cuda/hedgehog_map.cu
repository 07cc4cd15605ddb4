// A few lanes share a row and keep it in registers, so that it is read once and each exponential is computed
// once. The shifts of exp: the largest magnitude of each row, then a running maximum over the tokens of a
// head by one block.
#include "kernels/ops/hedgehog_map.h"

#include <climits>
#include <cmath>

#include "kernels/cuda/shared_rows.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = kSharedRowThreads, kShiftWarps = 8, kShiftThreads = kShiftWarps * kWarp;
constexpr int kMostPacks = 32;  // for rows of up to 1024 channels, in whatever registers that takes
/// Blocks a multiprocessor that keep the memory busy. Lanes of other packs have more registers and would
/// spill.
template <int V>
constexpr int kForwardBlocks = V == 8 ? 8 : 1;
template <int V>
constexpr int kBackwardBlocks = V == 8 ? 6 : 1;

template <class T, int V, int P>
__global__ void __launch_bounds__(kThreads, kForwardBlocks<V>) map_forward_kernel(HedgehogMapForward<T> a) {
  const auto N = static_cast<unsigned>(a.u.size[0]), Df = static_cast<unsigned>(a.u.size[1]);
  const bool joint = a.features == HedgehogFeatures::joint, exp = a.features == HedgehogFeatures::exp,
             normalised = joint || a.features == HedgehogFeatures::softmax;
  const float scale = joint ? 2.0f : 1.0f;
  struct Input {
    Packs<T, V, P> u;
    float shift = 0;
  };
  const auto read = [&](unsigned row, Input& in) {
    in.u.read(a.u.data + size_t{row} * Df, Df);
    if (exp && a.shift) in.shift = a.shift.data[row];
  };
  for_rows(N, Input{}, read, [&](unsigned row, const Input& in) {
    float plus[P][V], minus[P][V];  // u, then the features
    float largest = -INFINITY, largest_negative = -INFINITY;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      in.u.packs[p].unpack(plus[p]);
      if (channel<V>(p) >= Df) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        largest = fmaxf(largest, plus[p][v]);
        largest_negative = fmaxf(largest_negative, -plus[p][v]);
      }
    }
    float shift_plus = in.shift, shift_minus = in.shift;
    if (!exp) {
      for_lane_offsets([&](int offset) {
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
        largest_negative = fmaxf(largest_negative, __shfl_xor_sync(0xffffffffu, largest_negative, offset));
      });
      const float common = scale * fmaxf(largest, largest_negative);
      shift_plus = joint ? common : largest;
      shift_minus = joint ? common : largest_negative;
    }
    float sum_plus = 0, sum_minus = 0;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      if (channel<V>(p) >= Df) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const float value = scale * plus[p][v];
        sum_plus += plus[p][v] = expf(value - shift_plus);
        sum_minus += minus[p][v] = expf(-value - shift_minus);
      }
    }
    float factor_plus = 1, factor_minus = 1;
    if (normalised) {
      for_lane_offsets([&](int offset) {
        sum_plus += __shfl_xor_sync(0xffffffffu, sum_plus, offset);
        sum_minus += __shfl_xor_sync(0xffffffffu, sum_minus, offset);
      });
      factor_plus = 1 / (joint ? sum_plus + sum_minus : sum_plus);
      factor_minus = 1 / (joint ? sum_plus + sum_minus : sum_minus);
    }
    if (row >= N) return;
    T* const y = a.y.data + size_t{row} * 2 * Df;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const unsigned i = channel<V>(p);
      if (i >= Df) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        plus[p][v] *= factor_plus;
        minus[p][v] *= factor_minus;
      }
      store_once(y + i, plus[p]);
      store_once(y + Df + i, minus[p]);
    }
  });
}

/// The first of the largest values of a row, in every lane of it.
struct Largest {
  float value = -INFINITY;
  int index = INT_MAX;

  __device__ void take(float other, int other_index) {
    if (other > value || (other == value && other_index < index)) value = other, index = other_index;
  }
  __device__ void join() {
    for_lane_offsets([&](int offset) {
      const float other = __shfl_xor_sync(0xffffffffu, value, offset);
      const int other_index = __shfl_xor_sync(0xffffffffu, index, offset);
      take(other, other_index);
    });
  }
};

template <class T, int V, int P>
__global__ void __launch_bounds__(kThreads, kBackwardBlocks<V>)
    map_backward_kernel(HedgehogMapBackward<T> a) {
  const auto N = static_cast<unsigned>(a.du.size[0]), Df = static_cast<unsigned>(a.du.size[1]);
  const bool joint = a.features == HedgehogFeatures::joint, softmax = a.features == HedgehogFeatures::softmax,
             expmax = a.features == HedgehogFeatures::expmax;
  const float scale = joint ? 2.0f : 1.0f;
  struct Input {
    Packs<T, V, P> plus, minus, dplus, dminus;  // the halves of y and dy
  };
  const auto read = [&](unsigned row, Input& in) {
    const T *const y = a.y.data + size_t{row} * 2 * Df, *const dy = a.dy.data + size_t{row} * 2 * Df;
    in.plus.read(y, Df);
    in.minus.read(y + Df, Df);
    in.dplus.read(dy, Df);
    in.dminus.read(dy + Df, Df);
  };
  for_rows(N, Input{}, read, [&](unsigned row, const Input& in) {
    float plus[V], minus[V], dplus[V], dminus[V];
    const auto unpack = [&](int p) {
      in.plus.packs[p].unpack(plus);
      in.minus.packs[p].unpack(minus);
      in.dplus.packs[p].unpack(dplus);
      in.dminus.packs[p].unpack(dminus);
    };
    float sum_plus = 0, sum_minus = 0;  // <dp,p>, <dm,m>
    Largest first_plus, first_minus;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const unsigned i = channel<V>(p);
      if (i >= Df) continue;
      unpack(p);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum_plus += plus[v] * dplus[v];
        sum_minus += minus[v] * dminus[v];
      }
      if (!expmax) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        first_plus.take(plus[v], static_cast<int>(i) + v);
        first_minus.take(minus[v], static_cast<int>(i) + v);
      }
    }
    for_lane_offsets([&](int offset) {
      sum_plus += __shfl_xor_sync(0xffffffffu, sum_plus, offset);
      sum_minus += __shfl_xor_sync(0xffffffffu, sum_minus, offset);
    });
    if (expmax) {
      first_plus.join();
      first_minus.join();
    }
    if (row >= N) return;
    const float mean_plus = joint ? sum_plus + sum_minus : softmax ? sum_plus : 0.0f;
    const float mean_minus = joint ? sum_plus + sum_minus : softmax ? sum_minus : 0.0f;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const unsigned i = channel<V>(p);
      if (i >= Df) continue;
      unpack(p);
      float du[V];
#pragma unroll
      for (int v = 0; v < V; ++v)
        du[v] = scale * (plus[v] * (dplus[v] - mean_plus) - minus[v] * (dminus[v] - mean_minus));
      if (expmax)
#pragma unroll
        for (int v = 0; v < V; ++v) {
          if (static_cast<int>(i) + v == first_plus.index) du[v] -= sum_plus;
          if (static_cast<int>(i) + v == first_minus.index) du[v] += sum_minus;
        }
      store_once(a.du.data + size_t{row} * Df + i, du);
    }
  });
}

/// query_shift and key_shift = the largest magnitude of each row.
template <class T, int V, int P>
__global__ void __launch_bounds__(kThreads) magnitude_kernel(HedgehogShift<T> a) {
  const auto N = static_cast<unsigned>(a.key_shift.numel()), Df = static_cast<unsigned>(a.key.size[3]);
  struct Input {
    Packs<T, V, P> query, key;
  };
  const auto read = [&](unsigned row, Input& in) {
    in.query.read(a.query.data + size_t{row} * Df, Df);
    in.key.read(a.key.data + size_t{row} * Df, Df);
  };
  for_rows(N, Input{}, read, [&](unsigned row, const Input& in) {
    float query = 0, key = 0;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      float u[V], w[V];
      in.query.packs[p].unpack(u);
      in.key.packs[p].unpack(w);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        query = fmaxf(query, fabsf(u[v]));
        key = fmaxf(key, fabsf(w[v]));
      }
    }
    for_lane_offsets([&](int offset) {
      query = fmaxf(query, __shfl_xor_sync(0xffffffffu, query, offset));
      key = fmaxf(key, __shfl_xor_sync(0xffffffffu, key, offset));
    });
    if (row < N && threadIdx.x == 0) a.query_shift.data[row] = query, a.key_shift.data[row] = key;
  });
}

/// From the magnitudes to everything else; a block per head of a sequence.
template <class T>
__global__ void __launch_bounds__(kShiftThreads) shift_kernel(HedgehogShift<T> a) {
  __shared__ float of_warp[kShiftWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t length = a.key.size[1], H = a.key.size[2], b = blockIdx.x / H, h = blockIdx.x % H;
  float before = a.before ? a.before.data[blockIdx.x] : 0.0f;
  for (int64_t first = 0; first < length; first += kShiftThreads) {
    const int64_t t = first + threadIdx.x, row = (b * length + t) * H + h;
    float largest = t < length ? a.key_shift.data[row] - static_cast<float>(a.bound) : -INFINITY;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const float other = __shfl_up_sync(0xffffffffu, largest, offset);
      if (lane >= offset) largest = fmaxf(largest, other);
    }
    const float neighbour = __shfl_up_sync(0xffffffffu, largest, 1);
    __syncthreads();  // of_warp of the round before has been read
    if (lane == kWarp - 1) of_warp[warp] = largest;
    __syncthreads();
    float carried = before;
    for (int w = 0; w < kShiftWarps; ++w) {
      if (w < warp) carried = fmaxf(carried, of_warp[w]);
      before = fmaxf(before, of_warp[w]);
    }
    if (t >= length) continue;
    const float previous = lane == 0 ? carried : fmaxf(carried, neighbour), shift = fmaxf(carried, largest);
    a.key_shift.data[row] = shift;
    a.log_decay.data[row] = previous - shift;
    a.token_eps.data[row] = fmaxf(static_cast<float>(a.eps) * expf(-a.query_shift.data[row] - shift),
                                  static_cast<float>(a.smallest));
  }
  if (threadIdx.x == 0) a.after.data[blockIdx.x] = before;
}

template <class T>
void hedgehog_map_forward(const HedgehogMapForward<T>& args, Stream& stream) {
  if (args.u.numel() == 0) return;
  const int64_t N = args.u.size[0], Df = args.u.size[1];
  const bool wide = has_wide_packs<T>(Df, {args.u.data, args.y.data});
  with_packs<T, kMostPacks>(args.name, N, Df, wide, [&]<int V, int P>(dim3 block) {
    launch_rows(map_forward_kernel<T, V, P>, N, block, stream, args);
  });
  check_launch(args.name);
}

template <class T>
void hedgehog_map_backward(const HedgehogMapBackward<T>& args, Stream& stream) {
  if (args.du.numel() == 0) return;
  const int64_t N = args.du.size[0], Df = args.du.size[1];
  const bool wide = has_wide_packs<T>(Df, {args.y.data, args.dy.data, args.du.data});
  with_packs<T, kMostPacks>(args.name, N, Df, wide, [&]<int V, int P>(dim3 block) {
    launch_rows(map_backward_kernel<T, V, P>, N, block, stream, args);
  });
  check_launch(args.name);
}

template <class T>
void hedgehog_shift(const HedgehogShift<T>& args, Stream& stream) {
  const int64_t heads = args.key.size[0] * args.key.size[2], N = heads * args.key.size[1],
                Df = args.key.size[3];
  if (heads == 0) return;
  const bool wide = has_wide_packs<T>(Df, {args.query.data, args.key.data});
  with_packs<T, kMostPacks>(args.name, N, Df, wide, [&]<int V, int P>(dim3 block) {
    if (N > 0) launch_rows(magnitude_kernel<T, V, P>, N, block, stream, args);
  });
  shift_kernel<<<static_cast<unsigned>(heads), kShiftThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, hedgehog_shift<float>);
HEADWAY_KERNEL(cuda, hedgehog_shift<bf16>);
HEADWAY_KERNEL(cuda, hedgehog_map_forward<float>);
HEADWAY_KERNEL(cuda, hedgehog_map_forward<bf16>);
HEADWAY_KERNEL(cuda, hedgehog_map_backward<float>);
HEADWAY_KERNEL(cuda, hedgehog_map_backward<bf16>);

}  // namespace
}  // namespace headway
