#include "kernels/ops/norm_aware_map.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "kernels/cpu/carver.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace headway {
namespace {

using Settings = NormAwareMapSettings;

template <class T>
inline constexpr T kQuarterPi = std::numbers::pi_v<T> / 4;

/// A row on its way through the map; every loop over it has no branch but its settings'.
template <class T>
struct Row {
  const Settings& settings;
  int64_t Dh;
  T *direction, *base, *logarithm, *amplitude, *phase;  // [Dh] each; logarithm of |base|, 0 for zero
  T inverse_norm = 0;
  T saturation = 0;  // tanh(norm_scale r)
  T factor = 0;      // power / lambda
  T power = 0;

  Row(const Settings& settings_in, int64_t Dh_in, Carver& carver)
      : settings(settings_in),
        Dh(Dh_in),
        direction(carver.take<T>(Dh)),
        base(carver.take<T>(Dh)),
        logarithm(carver.take<T>(Dh)),
        amplitude(carver.take<T>(Dh)),
        phase(carver.take<T>(Dh)) {}

  void load(const T* x, T lambda) {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < Dh; ++i) sum += x[i] * x[i];
    const T norm = std::sqrt(sum + static_cast<T>(settings.eps));
    inverse_norm = T(1) / norm;
    saturation = std::tanh(static_cast<T>(settings.norm_scale) * norm);
    factor = settings.power_from_norm ? static_cast<T>(settings.tau) + saturation : T(1);
    power = lambda * factor;
    const bool from_direction = settings.base == Settings::Base::direction;
    const T base_scale = from_direction ? static_cast<T>(settings.direction_scale) * inverse_norm : T(1);
    constexpr T kSmallest = std::numeric_limits<T>::min();
    const T exponent = power, inverse = inverse_norm;
#pragma omp simd
    for (int64_t i = 0; i < Dh; ++i) {
      direction[i] = x[i] * inverse;
      const T value = x[i] * base_scale, magnitude = std::abs(value);
      const bool is_zero = magnitude < kSmallest;
      const T l = vector_log(is_zero ? T(1) : magnitude);
      base[i] = value;
      logarithm[i] = l;
      amplitude[i] = is_zero ? T(0) : vector_exp(exponent * l);
    }
    load_phase(x);
  }
  void load_phase(const T* x) {
    if (settings.map != Settings::Map::cosine) return;
    const bool from_row = settings.phase == Settings::Phase::tanh_row;
    const T* const source = from_row ? x : direction;
    if (settings.phase == Settings::Phase::none) {
      std::fill_n(phase, Dh, T(0));
    } else if (settings.phase == Settings::Phase::direction) {
#pragma omp simd
      for (int64_t i = 0; i < Dh; ++i) phase[i] = kQuarterPi<T> * source[i];
    } else {
#pragma omp simd
      for (int64_t i = 0; i < Dh; ++i) phase[i] = kQuarterPi<T> * vector_tanh(source[i]);
    }
  }
  /// y [2*Dh]
  void store(T* y) const {
    if (settings.map == Settings::Map::cosine) {
#pragma omp simd
      for (int64_t i = 0; i < Dh; ++i) {
        y[i] = amplitude[i] * vector_cos_small(phase[i]);
        y[Dh + i] = amplitude[i] * vector_sin_small(phase[i]);
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < Dh; ++i) {
        y[i] = base[i] < 0 ? T(0) : amplitude[i];  // NaN goes to both
        y[Dh + i] = base[i] > 0 ? T(0) : amplitude[i];
      }
    }
  }
  /// Gradients of amplitude and phase from dy [2*Dh].
  void store_backward(const T* dy, T* damplitude, T* dphase) const {
    if (settings.map == Settings::Map::cosine) {
#pragma omp simd
      for (int64_t i = 0; i < Dh; ++i) {
        const T cosine = vector_cos_small(phase[i]), sine = vector_sin_small(phase[i]);
        damplitude[i] = dy[i] * cosine + dy[Dh + i] * sine;
        dphase[i] = amplitude[i] * (dy[Dh + i] * cosine - dy[i] * sine);
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < Dh; ++i) {
        damplitude[i] = base[i] > 0 ? dy[i] : dy[Dh + i];
        dphase[i] = 0;
      }
    }
  }
  /// dphase becomes the gradient of what the phase is made of: x for tanh_row, else the direction.
  void phase_backward(T* dphase) const {
    if (settings.map != Settings::Map::cosine) return;
    if (settings.phase == Settings::Phase::none) {
      std::fill_n(dphase, Dh, T(0));
    } else if (settings.phase == Settings::Phase::direction) {
#pragma omp simd
      for (int64_t i = 0; i < Dh; ++i) dphase[i] *= kQuarterPi<T>;
    } else {
#pragma omp simd
      for (int64_t i = 0; i < Dh; ++i) {
        const T tangent = phase[i] / kQuarterPi<T>;
        dphase[i] *= kQuarterPi<T> * (T(1) - tangent * tangent);
      }
    }
  }
  /// dx from dy; returns the gradient of lambda. damplitude and dphase are room for Dh numbers each.
  T backward(const T* dy, T lambda, T* damplitude, T* dphase, T* dx) const {
    store_backward(dy, damplitude, dphase);
    phase_backward(dphase);
    const bool base_is_row = settings.base == Settings::Base::row;
    const bool phase_is_row = settings.phase == Settings::Phase::tanh_row;
    const T row_share = base_is_row ? T(1) : T(0), row_phase = phase_is_row ? T(1) : T(0);
    const T direction_share = base_is_row ? T(0) : static_cast<T>(settings.direction_scale);
    T dpower = 0, along = 0;
#pragma omp simd reduction(+ : dpower, along)
    for (int64_t i = 0; i < Dh; ++i) {
      dpower += damplitude[i] * amplitude[i] * logarithm[i];
      const T safe = amplitude[i] == 0 ? T(1) : base[i];
      const T dbase = damplitude[i] * power * amplitude[i] / safe;
      const T ddirection = direction_share * dbase + (T(1) - row_phase) * dphase[i];
      dx[i] = row_share * dbase + row_phase * dphase[i] + inverse_norm * ddirection;
      along += direction[i] * ddirection;
    }
    const T slope = T(1) - saturation * saturation;
    const T dnorm =
        settings.power_from_norm ? dpower * lambda * static_cast<T>(settings.norm_scale) * slope : T(0);
    const T radial = dnorm - inverse_norm * along;
#pragma omp simd
    for (int64_t i = 0; i < Dh; ++i) dx[i] += radial * direction[i];
    return dpower * factor;
  }
};

template <class Args>
auto lambda_of(const Args& args) {
  using T = std::remove_const_t<typename decltype(args.x)::Element>;
  return args.lambda ? args.lambda(0) : static_cast<T>(args.settings.lambda);
}

template <class T>
void norm_aware_map_forward(const NormAwareMapForward<T>& args, Stream& stream) {
  const int64_t N = args.x.size[0], Dh = args.x.size[1];
  const auto num_threads = static_cast<size_t>(omp_get_max_threads());
  Carver count(nullptr);
  Row<T>(args.settings, Dh, count);
  std::byte* const memory = stream.scratch(num_threads * count.used()).data();
  const T lambda = lambda_of(args);
#pragma omp parallel if (N * Dh >= kSmallestParallel)
  {
    Carver carver(memory + static_cast<size_t>(omp_get_thread_num()) * count.used());
    Row<T> row(args.settings, Dh, carver);
#pragma omp for
    for (int64_t n = 0; n < N; ++n) {
      row.load(args.x.data + n * Dh, lambda);
      row.store(args.y.data + n * 2 * Dh);
    }
  }
}

template <class T>
void norm_aware_map_backward(const NormAwareMapBackward<T>& args, Stream& stream) {
  const int64_t N = args.x.size[0], Dh = args.x.size[1], num_blocks = num_reduction_blocks(N);
  const auto num_threads = static_cast<size_t>(omp_get_max_threads());
  Carver count(nullptr), count_partial(nullptr);
  Row<T>(args.settings, Dh, count);
  count.take<T>(Dh);
  count.take<T>(Dh);
  count_partial.take<T>(num_blocks);
  std::byte* const memory = stream.scratch(count_partial.used() + num_threads * count.used()).data();
  T* const dlambda = Carver(memory).take<T>(num_blocks);
  const T lambda = lambda_of(args);
#pragma omp parallel if (N * Dh >= kSmallestParallel)
  {
    Carver carver(memory + count_partial.used() + static_cast<size_t>(omp_get_thread_num()) * count.used());
    Row<T> row(args.settings, Dh, carver);
    T *const damplitude = carver.take<T>(Dh), *const dphase = carver.take<T>(Dh);
#pragma omp for
    for (int64_t block = 0; block < num_blocks; ++block) {
      dlambda[block] = 0;
      for (int64_t n = N * block / num_blocks; n < N * (block + 1) / num_blocks; ++n) {
        row.load(args.x.data + n * Dh, lambda);
        dlambda[block] +=
            row.backward(args.dy.data + n * 2 * Dh, lambda, damplitude, dphase, args.dx.data + n * Dh);
      }
    }
  }
  if (args.lambda) add_blocks(dlambda, num_blocks, args.dlambda, args.accumulate_lambda);
}

HEADWAY_KERNEL(cpu, norm_aware_map_forward<float>);
HEADWAY_KERNEL(cpu, norm_aware_map_forward<double>);
HEADWAY_KERNEL(cpu, norm_aware_map_backward<float>);
HEADWAY_KERNEL(cpu, norm_aware_map_backward<double>);

}  // namespace
}  // namespace headway
