#include "kernels/ops/lrpe.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/carver.h"
#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

/// Cosines and sines of all channels at one position; every sequence of the batch shares them.
template <class T>
struct Angles {
  T *cosine, *sine;  // [H*Dh]

  Angles(Carver& carver, int64_t width) : cosine(carver.take<T>(width)), sine(carver.take<T>(width)) {}
  void load(const View<const T, 2>& theta, int64_t position) {
    for (int64_t c = 0; c < theta.numel(); ++c) {
      const double angle = static_cast<double>(position) * static_cast<double>(theta.data[c]);
      cosine[c] = static_cast<T>(std::cos(angle));
      sine[c] = static_cast<T>(std::sin(angle));
    }
  }
};

template <class T>
void lrpe_forward(const LrpeForward<T>& args, Stream& stream) {
  const int64_t B = args.x.size[0], L = args.x.size[1], H = args.x.size[2], Dh = args.x.size[3];
  Carver count(nullptr);
  Angles<T>(count, H * Dh);
  std::byte* const memory = stream.scratch(static_cast<size_t>(omp_get_max_threads()) * count.used()).data();
#pragma omp parallel if (args.x.numel() >= kSmallestParallel)
  {
    Carver carver(memory + static_cast<size_t>(omp_get_thread_num()) * count.used());
    Angles<T> angles(carver, H * Dh);
#pragma omp for
    for (int64_t t = 0; t < L; ++t) {
      angles.load(args.theta, args.positions.of(t));
      for (int64_t b = 0; b < B; ++b)
        for (int64_t h = 0; h < H; ++h) {
          const T *const x = &args.x(b, t, h, 0), *const c = angles.cosine + h * Dh,
                         *const s = angles.sine + h * Dh;
          T* const y = &args.y(b, t, h, 0);
#pragma omp simd
          for (int64_t m = 0; m < Dh; ++m) {
            y[m] = x[m] * c[m];
            y[Dh + m] = x[m] * s[m];
          }
        }
    }
  }
}

template <class T>
void lrpe_backward(const LrpeBackward<T>& args, Stream& stream) {
  const int64_t B = args.x.size[0], L = args.x.size[1], H = args.x.size[2], Dh = args.x.size[3];
  const int64_t width = H * Dh, num_blocks = num_reduction_blocks(L);
  Carver count(nullptr), count_partial(nullptr);
  Angles<T>(count, width);
  count_partial.take<T>(num_blocks * width);
  std::byte* const memory =
      stream.scratch(count_partial.used() + static_cast<size_t>(omp_get_max_threads()) * count.used()).data();
  T* const partial = Carver(memory).take<T>(num_blocks * width);
#pragma omp parallel if (args.x.numel() >= kSmallestParallel)
  {
    Carver carver(memory + count_partial.used() + static_cast<size_t>(omp_get_thread_num()) * count.used());
    Angles<T> angles(carver, width);
#pragma omp for
    for (int64_t block = 0; block < num_blocks; ++block) {
      std::fill_n(partial + block * width, width, T(0));
      for (int64_t t = L * block / num_blocks; t < L * (block + 1) / num_blocks; ++t) {
        angles.load(args.theta, args.positions.of(t));
        const auto position = static_cast<T>(args.positions.of(t));
        for (int64_t b = 0; b < B; ++b)
          for (int64_t h = 0; h < H; ++h) {
            const T *const x = &args.x(b, t, h, 0), *const dy = &args.dy(b, t, h, 0),
                           *const c = angles.cosine + h * Dh, *const s = angles.sine + h * Dh;
            T *const dx = &args.dx(b, t, h, 0), *const dtheta = partial + block * width + h * Dh;
#pragma omp simd
            for (int64_t m = 0; m < Dh; ++m) {
              dx[m] = c[m] * dy[m] + s[m] * dy[Dh + m];
              dtheta[m] += position * x[m] * (c[m] * dy[Dh + m] - s[m] * dy[m]);
            }
          }
      }
    }
  }
  add_blocks(partial, num_blocks, args.dtheta, args.accumulate_theta);
}

HEADWAY_KERNEL(cpu, lrpe_forward<float>);
HEADWAY_KERNEL(cpu, lrpe_forward<double>);
HEADWAY_KERNEL(cpu, lrpe_backward<float>);
HEADWAY_KERNEL(cpu, lrpe_backward<double>);

}  // namespace
}  // namespace headway
