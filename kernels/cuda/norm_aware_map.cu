// A few lanes share a row and keep it in registers, so that each function of an element is computed once. The
// gradient of lambda is summed per lane over its rows, per block, over blocks.
#include "kernels/ops/norm_aware_map.h"

#include <cfloat>
#include <numbers>

#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/base_2.cuh"
#include "kernels/cuda/shared_rows.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = kSharedRowThreads, kWarps = kThreads / kWarp;
constexpr int kMostPacks = 32;  // for rows of up to 1024 channels, in whatever registers that takes
/// Blocks a multiprocessor that keep the memory busy. Lanes of other packs have more registers and would
/// spill.
template <int V>
constexpr int kBlocks = V == 8 ? 6 : 1;
constexpr float kQuarterPi = std::numbers::pi_v<float> / 4, kLn2 = std::numbers::ln2_v<float>;

using Settings = NormAwareMapSettings;

/// The settings as the kernels use them, so that no lane converts a double.
struct Numbers {
  bool is_cosine, base_is_row, phase_is_row, power_from_norm;
  Settings::Phase phase;
  float lambda, tau, norm_scale, direction_scale, eps;

  explicit Numbers(const Settings& s)
      : is_cosine(s.map == Settings::Map::cosine),
        base_is_row(s.base == Settings::Base::row),
        phase_is_row(s.phase == Settings::Phase::tanh_row),
        power_from_norm(s.power_from_norm),
        phase(s.phase),
        lambda(static_cast<float>(s.lambda)),
        tau(static_cast<float>(s.tau)),
        norm_scale(static_cast<float>(s.norm_scale)),
        direction_scale(static_cast<float>(s.direction_scale)),
        eps(static_cast<float>(s.eps)) {}
};

/// What a row's elements share, in every lane.
struct Row {
  float inverse_norm, saturation, factor, power, base_scale;

  /// squares: sum of the squares of the row
  __device__ Row(const Numbers& s, float squares, float lambda)
      : inverse_norm(rsqrtf(squares + s.eps)),
        saturation(s.power_from_norm ? tanhf(s.norm_scale * sqrtf(squares + s.eps)) : 0.0f),
        factor(s.power_from_norm ? s.tau + saturation : 1.0f),
        power(lambda * factor),
        base_scale(s.base_is_row ? 1.0f : s.direction_scale * inverse_norm) {}
};

struct Element {
  float base, logarithm;  // logarithm of |base| to base 2, 0 for zero
  bool is_zero;

  __device__ Element(const Row& row, float x)
      : base(x * row.base_scale), logarithm(log_2(fabsf(base))), is_zero(fabsf(base) < FLT_MIN) {
    if (is_zero) logarithm = 0;
  }
  /// |base|^exponent, 0 for zero.
  __device__ float to_power(float exponent) const {
    return is_zero ? 0.0f : power_of_2(exponent * logarithm);
  }
};

/// Of |x| <= 1, to 2 units in the last place. Half of what tanhf takes.
__device__ float tanh_small(float x) {
  const float square = x * x;
  float p = -4.206494195e-4f;  // (tanh x - x) / x^3, through Chebyshev's nodes
  p = p * square + 2.510331571e-3f;
  p = p * square - 8.218790404e-3f;
  p = p * square + 2.166005224e-2f;
  p = p * square - 5.393477529e-2f;
  p = p * square + 1.333312839e-1f;
  p = p * square - 3.333333135e-1f;
  return p * square * x + x;
}

/// The phases of V elements are pi/4 times these, of which none is above 1.
template <int V>
__device__ void find_tangents(const Numbers& s, const Row& row, const float (&x)[V], float (&tangents)[V]) {
  const auto set = [&](auto f) {
#pragma unroll
    for (int v = 0; v < V; ++v) tangents[v] = f(x[v]);
  };
  if (s.phase == Settings::Phase::tanh_direction)
    set([&](float value) { return tanh_small(value * row.inverse_norm); });
  else if (s.phase == Settings::Phase::direction)
    set([&](float value) { return value * row.inverse_norm; });
  else if (s.phase == Settings::Phase::tanh_row)
    set([](float value) { return tanhf(value); });
  else
    set([](float) { return 0.0f; });
}

/// Of pi/4 times |tangent| <= 1, to 2 units in the last place: the polynomials of Cephes' sinf and cosf with
/// the powers of pi/4 in their coefficients.
struct SineCosine {
  float sine, cosine;

  __device__ explicit SineCosine(float tangent) {
    constexpr auto scaled = [](double coefficient, int power) {
      for (int i = 0; i < power; ++i) coefficient *= std::numbers::pi / 4;
      return static_cast<float>(coefficient);
    };
    constexpr float s3 = scaled(-1.6666654611e-1, 3), s5 = scaled(8.3321608736e-3, 5),
                    s7 = scaled(-1.9515295891e-4, 7);
    constexpr float c2 = scaled(-0.5, 2), c4 = scaled(4.166664568298827e-2, 4),
                    c6 = scaled(-1.388731625493765e-3, 6), c8 = scaled(2.443315711809948e-5, 8);
    const float square = tangent * tangent;
    sine = (((s7 * square + s5) * square + s3) * square + kQuarterPi) * tangent;
    cosine = (((c8 * square + c6) * square + c4) * square + c2) * square + 1.0f;
  }
};

template <class Args>
__device__ float lambda_of(const Args& a, const Numbers& s) {
  return a.lambda ? a.lambda.data[0] : s.lambda;
}

template <class T, int V, int P>
__device__ float sum_squares(const Packs<T, V, P>& x) {
  float sum = 0;
#pragma unroll
  for (int p = 0; p < P; ++p) {
    float values[V];
    x.packs[p].unpack(values);
#pragma unroll
    for (int v = 0; v < V; ++v) sum += values[v] * values[v];
  }
  return lanes_sum(sum);
}

template <class T, int V, int P>
__global__ void __launch_bounds__(kThreads, kBlocks<V>)
    norm_aware_map_forward_kernel(NormAwareMapForward<T> a, Numbers s) {
  const auto N = static_cast<unsigned>(a.x.size[0]), Dh = static_cast<unsigned>(a.x.size[1]);
  const float lambda = lambda_of(a, s);
  const auto read = [&](unsigned n, Packs<T, V, P>& x) { x.read(a.x.data + size_t{n} * Dh, Dh); };
  for_rows(N, Packs<T, V, P>{}, read, [&](unsigned n, const Packs<T, V, P>& packs) {
    const Row row(s, sum_squares(packs), lambda);
    if (n >= N) return;
    T* const y = a.y.data + size_t{n} * 2 * Dh;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const unsigned i = channel<V>(p);
      if (i >= Dh) continue;
      float x[V], first[V], second[V];
      packs.packs[p].unpack(x);
      if (s.is_cosine) {
        float tangents[V];
        find_tangents(s, row, x, tangents);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const float amplitude = Element(row, x[v]).to_power(row.power);
          const SineCosine phase(tangents[v]);
          first[v] = amplitude * phase.cosine;
          second[v] = amplitude * phase.sine;
        }
      } else {  // NaN goes to both
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const Element e(row, x[v]);
          const float amplitude = e.to_power(row.power);
          first[v] = e.base < 0 ? 0.0f : amplitude;
          second[v] = e.base > 0 ? 0.0f : amplitude;
        }
      }
      store_once(y + i, first);
      store_once(y + Dh + i, second);
    }
  });
}

/// partial [blocks]: sums of the gradient of lambda over the rows of a block.
template <class T, int V, int P>
__global__ void __launch_bounds__(kThreads, kBlocks<V>)
    norm_aware_map_backward_kernel(NormAwareMapBackward<T> a, Numbers s, float* partial) {
  let_next_kernel_begin();  // add_blocks may be placed as blocks of this kernel end
  const auto N = static_cast<unsigned>(a.x.size[0]), Dh = static_cast<unsigned>(a.x.size[1]);
  const float lambda = lambda_of(a, s);
  // d phase: of tanh pi/4 (1 - tangent^2), of the direction itself pi/4, of none 0.
  const float phase_scale = s.phase == Settings::Phase::none ? 0.0f : kQuarterPi;
  const float curvature = s.phase == Settings::Phase::direction ? 0.0f : phase_scale;
  float dlambda = 0;
  struct Input {
    Packs<T, V, P> x, first, second;  // first, second: the halves of dy
  };
  const auto read = [&](unsigned n, Input& in) {
    const T* const dy = a.dy.data + size_t{n} * 2 * Dh;
    in.x.read(a.x.data + size_t{n} * Dh, Dh);
    in.first.read(dy, Dh);
    in.second.read(dy + Dh, Dh);
  };
  for_rows(N, Input{}, read, [&](unsigned n, const Input& in) {
    const Row row(s, sum_squares(in.x), lambda);
    const float base_scale = row.base_scale * row.power,
                argument_scale = s.phase_is_row ? 1.0f : row.inverse_norm;
    float dx[P][V];  // but for what comes through the norm
    float dpower = 0, base_along = 0, phase_along = 0;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      float x[V], first[V], second[V], tangents[V];
      in.x.packs[p].unpack(x);
      in.first.packs[p].unpack(first);
      in.second.packs[p].unpack(second);
      if (s.is_cosine) find_tangents(s, row, x, tangents);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const Element e(row, x[v]);
        // |b|^P is b times this, whose P-fold is its derivative.
        const float slope = copysignf(e.to_power(row.power - 1), e.base);
        float damplitude, dphase = 0;
        if (s.is_cosine) {
          const SineCosine phase(tangents[v]);
          damplitude = first[v] * phase.cosine + second[v] * phase.sine;
          dphase = e.base * slope * (second[v] * phase.cosine - first[v] * phase.sine) *
                   (phase_scale - curvature * (tangents[v] * tangents[v]));
        } else {
          damplitude = e.base > 0 ? first[v] : second[v];
        }
        const float dbase = damplitude * slope;  // over the power
        dpower += dbase * (e.base * e.logarithm);
        base_along += dbase * x[v];
        phase_along += dphase * x[v];
        dx[p][v] = dbase * base_scale + dphase * argument_scale;
      }
    }
    float along = (s.base_is_row ? 0.0f : base_scale * base_along) +
                  (s.phase_is_row ? 0.0f : argument_scale * phase_along);
    for_lane_offsets([&](int offset) {
      dpower += __shfl_xor_sync(0xffffffffu, dpower, offset);
      along += __shfl_xor_sync(0xffffffffu, along, offset);
    });
    if (n >= N) return;
    dpower *= kLn2;
    if (threadIdx.x == 0) dlambda += dpower * row.factor;
    const float dfactor = s.norm_scale * (1 - row.saturation * row.saturation);
    const float radial = (s.power_from_norm ? dpower * lambda * dfactor : 0.0f) - row.inverse_norm * along;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const unsigned i = channel<V>(p);
      if (i >= Dh) continue;
      float x[V];
      in.x.packs[p].unpack(x);
#pragma unroll
      for (int v = 0; v < V; ++v) dx[p][v] += radial * row.inverse_norm * x[v];
      store_once(a.dx.data + size_t{n} * Dh + i, dx[p]);
    }
  });
  if (!a.lambda) return;
  __shared__ float of_warp[kWarps];
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  dlambda = warp_sum(dlambda);
  if (thread % kWarp == 0) of_warp[thread / kWarp] = dlambda;
  __syncthreads();
  if (thread != 0) return;
  for (int warp = 1; warp < kWarps; ++warp) dlambda += of_warp[warp];
  partial[blockIdx.x] = dlambda;
}

template <class T>
void norm_aware_map_forward(const NormAwareMapForward<T>& args, Stream& stream) {
  if (args.x.numel() == 0) return;
  const int64_t N = args.x.size[0], Dh = args.x.size[1];
  const bool wide = has_wide_packs<T>(Dh, {args.x.data, args.y.data});
  with_packs<T, kMostPacks>(args.name, N, Dh, wide, [&]<int V, int P>(dim3 block) {
    launch_rows(norm_aware_map_forward_kernel<T, V, P>, N, block, stream, args, Numbers(args.settings));
  });
  check_launch(args.name);
}

template <class T>
void norm_aware_map_backward(const NormAwareMapBackward<T>& args, Stream& stream) {
  const int64_t N = args.x.size[0], Dh = args.x.size[1];
  const bool wide = has_wide_packs<T>(Dh, {args.x.data, args.dy.data, args.dx.data});
  with_packs<T, kMostPacks>(args.name, N, Dh, wide, [&]<int V, int P>(dim3 block) {
    const auto kernel = norm_aware_map_backward_kernel<T, V, P>;
    const unsigned blocks =
        std::clamp(blocks_for(N, block.y), 1u, num_resident_blocks(kernel, kThreads, 0, stream));
    auto* const partial = reinterpret_cast<float*>(stream.scratch(blocks * sizeof(float)).data());
    kernel<<<blocks, block, 0, stream.native()>>>(args, Numbers(args.settings), partial);
    check_launch(args.name);
    if (args.lambda) add_blocks(partial, blocks, 1, args.dlambda.data, args.accumulate_lambda, stream);
  });
}

HEADWAY_KERNEL(cuda, norm_aware_map_forward<float>);
HEADWAY_KERNEL(cuda, norm_aware_map_forward<bf16>);
HEADWAY_KERNEL(cuda, norm_aware_map_backward<float>);
HEADWAY_KERNEL(cuda, norm_aware_map_backward<bf16>);

}  // namespace
}  // namespace headway
