// A warp per row. The shifts of exp: the largest magnitude of each row, then a running maximum over the
// tokens of a head by one block.
#include "kernels/ops/hedgehog_map.h"

#include <cmath>

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kWarps = 8, kThreads = kWarps * kWarp;

__device__ inline int64_t row_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
}

template <class T>
__global__ void __launch_bounds__(kThreads) map_forward_kernel(HedgehogMapForward<T> a) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row = row_of_warp(), Df = a.u.size[1];
  if (row >= a.u.size[0]) return;
  const T* const u = a.u.data + row * Df;
  T* const y = a.y.data + row * 2 * Df;
  float largest = -INFINITY, least = INFINITY;
  for (int64_t i = lane; i < Df; i += kWarp) {
    const float value = to_float(u[i]);
    largest = fmaxf(largest, value);
    least = fminf(least, value);
  }
  largest = warp_max(largest);
  least = -warp_max(-least);
  const bool joint = a.features == HedgehogFeatures::joint, exp = a.features == HedgehogFeatures::exp;
  const float scale = joint ? 2.0f : 1.0f, common = scale * fmaxf(largest, -least);
  const float own = exp && a.shift ? a.shift.data[row] : 0.0f;
  const float shift_plus = joint ? common
                           : exp ? own
                                 : largest,
              shift_minus = joint ? common
                            : exp ? own
                                  : -least;
  float factor_plus = 1, factor_minus = 1;
  if (joint || a.features == HedgehogFeatures::softmax) {
    float plus = 0, minus = 0;
    for (int64_t i = lane; i < Df; i += kWarp) {
      const float value = scale * to_float(u[i]);
      plus += expf(value - shift_plus);
      minus += expf(-value - shift_minus);
    }
    plus = warp_sum(plus);
    minus = warp_sum(minus);
    factor_plus = 1 / (joint ? plus + minus : plus);
    factor_minus = 1 / (joint ? plus + minus : minus);
  }
  for (int64_t i = lane; i < Df; i += kWarp) {
    const float value = scale * to_float(u[i]);
    y[i] = from_float<T>(factor_plus * expf(value - shift_plus));
    y[Df + i] = from_float<T>(factor_minus * expf(-value - shift_minus));
  }
}

/// The first of the largest values of a warp, in every lane.
struct Largest {
  float value = -INFINITY;
  int64_t index = INT64_MAX;

  __device__ void take(float other, int64_t other_index) {
    if (other > value || (other == value && other_index < index)) value = other, index = other_index;
  }
  __device__ void join() {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, value, offset);
      const int64_t other_index = __shfl_xor_sync(0xffffffffu, index, offset);
      take(other, other_index);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) map_backward_kernel(HedgehogMapBackward<T> a) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row = row_of_warp(), Df = a.du.size[1];
  if (row >= a.du.size[0]) return;
  const T *const y = a.y.data + row * 2 * Df, *const dy = a.dy.data + row * 2 * Df;
  float plus = 0, minus = 0;
  Largest first_plus, first_minus;
  for (int64_t i = lane; i < Df; i += kWarp) {
    const float p = to_float(y[i]), m = to_float(y[Df + i]);
    plus += p * to_float(dy[i]);
    minus += m * to_float(dy[Df + i]);
    first_plus.take(p, i);
    first_minus.take(m, i);
  }
  plus = warp_sum(plus);
  minus = warp_sum(minus);
  const bool expmax = a.features == HedgehogFeatures::expmax;
  if (expmax) {
    first_plus.join();
    first_minus.join();
  }
  const bool joint = a.features == HedgehogFeatures::joint, softmax = a.features == HedgehogFeatures::softmax;
  const float scale = joint ? 2.0f : 1.0f;
  const float mean_plus = joint     ? plus + minus
                          : softmax ? plus
                                    : 0.0f,
              mean_minus = joint     ? plus + minus
                           : softmax ? minus
                                     : 0.0f;
  for (int64_t i = lane; i < Df; i += kWarp) {
    float du = scale * (to_float(y[i]) * (to_float(dy[i]) - mean_plus) -
                        to_float(y[Df + i]) * (to_float(dy[Df + i]) - mean_minus));
    if (expmax && i == first_plus.index) du -= plus;
    if (expmax && i == first_minus.index) du += minus;
    a.du.data[row * Df + i] = from_float<T>(du);
  }
}

/// query_shift and key_shift = the largest magnitude of each row.
template <class T>
__global__ void __launch_bounds__(kThreads) magnitude_kernel(HedgehogShift<T> a) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row = row_of_warp(), Df = a.key.size[3];
  if (row >= a.key_shift.numel()) return;
  float query = 0, key = 0;
  for (int64_t i = lane; i < Df; i += kWarp) {
    query = fmaxf(query, fabsf(to_float(a.query.data[row * Df + i])));
    key = fmaxf(key, fabsf(to_float(a.key.data[row * Df + i])));
  }
  query = warp_max(query);
  key = warp_max(key);
  if (lane == 0) a.query_shift.data[row] = query, a.key_shift.data[row] = key;
}

/// From the magnitudes to everything else; a block per head of a sequence.
template <class T>
__global__ void __launch_bounds__(kThreads) shift_kernel(HedgehogShift<T> a) {
  __shared__ float of_warp[kWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t length = a.key.size[1], H = a.key.size[2], b = blockIdx.x / H, h = blockIdx.x % H;
  float before = a.before ? a.before.data[blockIdx.x] : 0.0f;
  for (int64_t first = 0; first < length; first += kThreads) {
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
    for (int w = 0; w < kWarps; ++w) {
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
  map_forward_kernel<<<blocks_for(args.u.size[0], kWarps), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
void hedgehog_map_backward(const HedgehogMapBackward<T>& args, Stream& stream) {
  if (args.du.numel() == 0) return;
  map_backward_kernel<<<blocks_for(args.du.size[0], kWarps), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
void hedgehog_shift(const HedgehogShift<T>& args, Stream& stream) {
  const int64_t heads = args.key.size[0] * args.key.size[2], rows = heads * args.key.size[1];
  if (heads == 0) return;
  if (rows > 0) magnitude_kernel<<<blocks_for(rows, kWarps), kThreads, 0, stream.native()>>>(args);
  shift_kernel<<<static_cast<unsigned>(heads), kThreads, 0, stream.native()>>>(args);
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
