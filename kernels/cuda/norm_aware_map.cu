// A warp per row, which is read again for each pass over it. The gradient of lambda is summed per warp over
// its rows, per block, over blocks.
#include "kernels/ops/norm_aware_map.h"

#include <cfloat>
#include <numbers>

#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr unsigned kBlocksOfMultiprocessor = 2048 / kThreads;
constexpr float kQuarterPi = std::numbers::pi_v<float> / 4;

using Settings = NormAwareMapSettings;

/// What a row's elements share, in every lane.
struct Row {
  const Settings& settings;
  float inverse_norm, saturation, factor, power, base_scale;

  /// squares: sum of the squares of the row
  __device__ Row(const Settings& s, float squares, float lambda) : settings(s) {
    const float norm = sqrtf(squares + static_cast<float>(s.eps));
    inverse_norm = 1 / norm;
    saturation = tanhf(static_cast<float>(s.norm_scale) * norm);  // 1 - saturation^2 is its slope
    factor = s.power_from_norm ? static_cast<float>(s.tau) + saturation : 1.0f;
    power = lambda * factor;
    base_scale =
        s.base == Settings::Base::direction ? static_cast<float>(s.direction_scale) * inverse_norm : 1.0f;
  }
};

struct Element {
  float direction, base, logarithm, amplitude, phase, tangent;  // logarithm of |base|, 0 for zero

  __device__ Element(const Row& row, float x) {
    direction = x * row.inverse_norm;
    base = x * row.base_scale;
    const float magnitude = fabsf(base);
    const bool is_zero = magnitude < FLT_MIN;
    logarithm = is_zero ? 0.0f : logf(magnitude);
    amplitude = is_zero ? 0.0f : expf(row.power * logarithm);
    const auto kind = row.settings.phase;
    if (row.settings.map != Settings::Map::cosine || kind == Settings::Phase::none)
      tangent = 0;
    else if (kind == Settings::Phase::direction)
      tangent = direction;
    else
      tangent = tanhf(kind == Settings::Phase::tanh_row ? x : direction);
    phase = kQuarterPi * tangent;
  }
  /// d phase / d its argument
  __device__ float phase_slope(const Settings& s) const {
    if (s.phase == Settings::Phase::none) return 0;
    return s.phase == Settings::Phase::direction ? kQuarterPi : kQuarterPi * (1 - tangent * tangent);
  }
};

template <class T>
__device__ float sum_squares(const T* x, int64_t Dh) {
  float sum = 0;
  for (int64_t i = threadIdx.x % kWarp; i < Dh; i += kWarp) {
    const float value = to_float(x[i]);
    sum += value * value;
  }
  return warp_sum(sum);
}

template <class Args>
__device__ float lambda_of(const Args& a) {
  return a.lambda ? a.lambda.data[0] : static_cast<float>(a.settings.lambda);
}

template <class T>
__global__ void __launch_bounds__(kThreads) norm_aware_map_forward_kernel(NormAwareMapForward<T> a) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp, Dh = a.x.size[1];
  if (n >= a.x.size[0]) return;
  const T* const x = a.x.data + n * Dh;
  T* const y = a.y.data + n * 2 * Dh;
  const Row row(a.settings, sum_squares(x, Dh), lambda_of(a));
  for (int64_t i = threadIdx.x % kWarp; i < Dh; i += kWarp) {
    const Element e(row, to_float(x[i]));
    if (a.settings.map == Settings::Map::cosine) {
      float sine, cosine;
      sincosf(e.phase, &sine, &cosine);
      y[i] = from_float<T>(e.amplitude * cosine);
      y[Dh + i] = from_float<T>(e.amplitude * sine);
    } else {  // NaN goes to both
      y[i] = from_float<T>(e.base < 0 ? 0.0f : e.amplitude);
      y[Dh + i] = from_float<T>(e.base > 0 ? 0.0f : e.amplitude);
    }
  }
}

/// partial [blocks]: sums of the gradient of lambda over the rows of a block.
template <class T>
__global__ void __launch_bounds__(kThreads)
    norm_aware_map_backward_kernel(NormAwareMapBackward<T> a, float* partial) {
  const int lane = threadIdx.x % kWarp;
  const int64_t N = a.x.size[0], Dh = a.x.size[1];
  const Settings& s = a.settings;
  const float lambda = lambda_of(a);
  const bool base_is_row = s.base == Settings::Base::row, phase_is_row = s.phase == Settings::Phase::tanh_row;
  float dlambda = 0;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; n < N;
       n += static_cast<int64_t>(gridDim.x) * kWarps) {
    const T *const x = a.x.data + n * Dh, *const dy = a.dy.data + n * 2 * Dh;
    const Row row(s, sum_squares(x, Dh), lambda);
    /// What x_i gets by itself, and through the direction.
    struct Shares {
      float own, direction;
    };
    const auto shares = [&](int64_t i, const Element& e, float* dpower) {
      const float first = to_float(dy[i]), second = to_float(dy[Dh + i]);
      float damplitude = e.base > 0 ? first : second, dphase = 0;
      if (s.map == Settings::Map::cosine) {
        float sine, cosine;
        sincosf(e.phase, &sine, &cosine);
        damplitude = first * cosine + second * sine;
        dphase = e.amplitude * (second * cosine - first * sine) * e.phase_slope(s);
      }
      if (dpower) *dpower += damplitude * e.amplitude * e.logarithm;
      const float dbase = damplitude * row.power * e.amplitude / (e.amplitude == 0 ? 1.0f : e.base);
      const float through = (base_is_row ? 0.0f : static_cast<float>(s.direction_scale) * dbase) +
                            (phase_is_row ? 0.0f : dphase);
      return Shares{(base_is_row ? dbase : 0.0f) + (phase_is_row ? dphase : 0.0f), through};
    };
    float dpower = 0, along = 0;
    for (int64_t i = lane; i < Dh; i += kWarp) {
      const Element e(row, to_float(x[i]));
      along += e.direction * shares(i, e, &dpower).direction;
    }
    dpower = warp_sum(dpower);
    along = warp_sum(along);
    const float slope = static_cast<float>(s.norm_scale) * (1 - row.saturation * row.saturation);
    const float radial = (s.power_from_norm ? dpower * lambda * slope : 0.0f) - row.inverse_norm * along;
    for (int64_t i = lane; i < Dh; i += kWarp) {
      const Element e(row, to_float(x[i]));
      const Shares share = shares(i, e, nullptr);
      a.dx.data[n * Dh + i] =
          from_float<T>(share.own + row.inverse_norm * share.direction + radial * e.direction);
    }
    if (lane == 0) dlambda += dpower * row.factor;
  }
  if (!a.lambda) return;
  dlambda = block_sum(dlambda);
  if (threadIdx.x == 0) partial[blockIdx.x] = dlambda;
}

template <class T>
void norm_aware_map_forward(const NormAwareMapForward<T>& args, Stream& stream) {
  if (args.x.numel() == 0) return;
  norm_aware_map_forward_kernel<<<blocks_for(args.x.size[0], kWarps), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

template <class T>
void norm_aware_map_backward(const NormAwareMapBackward<T>& args, Stream& stream) {
  const unsigned blocks = std::clamp(blocks_for(args.x.size[0], kWarps), 1u,
                                     kBlocksOfMultiprocessor * num_multiprocessors(stream));
  auto* const partial = reinterpret_cast<float*>(stream.scratch(blocks * sizeof(float)).data());
  norm_aware_map_backward_kernel<<<blocks, kThreads, 0, stream.native()>>>(args, partial);
  check_launch(args.name);
  if (args.lambda) add_blocks(partial, blocks, 1, args.dlambda.data, args.accumulate_lambda, stream);
}

HEADWAY_KERNEL(cuda, norm_aware_map_forward<float>);
HEADWAY_KERNEL(cuda, norm_aware_map_forward<bf16>);
HEADWAY_KERNEL(cuda, norm_aware_map_backward<float>);
HEADWAY_KERNEL(cuda, norm_aware_map_backward<bf16>);

}  // namespace
}  // namespace headway
