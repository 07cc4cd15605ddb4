#include "kernels/cpu/causal_conv.h"

#include <omp.h>

#include "kernels/cpu/carver.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/ops/causal_conv.h"

namespace headway {
namespace {

template <class T>
struct Sizes {
  int64_t B, length, C, K;

  explicit Sizes(const CausalConvInputs<T>& in)
      : B(in.x.size[0]), length(in.x.size[1]), C(in.x.size[2]), K(in.weight.size[1]) {}
  bool is_worth_a_team() const { return B * length * C >= kSmallestParallel; }
};

/// Rows of sequence b of x and of the history before it, which may have no memory.
template <class T>
CausalRows<T> sequence(const View<T, 3>& x, const View<T, 3>& history, const auto& s, int64_t b) {
  return {.rows = x.data + b * s.length * s.C,
          .stride = s.C,
          .before = history ? history.data + b * (s.K - 1) * s.C : nullptr,
          .before_stride = s.C,
          .num_before = s.K - 1};
}

template <class T>
T sigmoid(T x) {
  return T(1) / (T(1) + vector_exp(-x));
}

template <class T>
void conv_forward(const CausalConvForward<T>& args, Stream& stream) {
  const Sizes<T> s(args.in);
  Carver carver(stream.scratch(static_cast<size_t>(s.K * s.C) * sizeof(T)).data());
  T* const taps = carver.take<T>(s.K * s.C);
  pack_taps(args.in.weight.data, s.C, s.K, taps);
#pragma omp parallel for if (s.is_worth_a_team())
  for (int64_t row = 0; row < s.B * s.length; ++row) {
    const int64_t b = row / s.length, t = row % s.length;
    T* const y = args.y.data + row * s.C;
    causal_conv_forward<T>(sequence(args.in.x, args.in.history, s, b), taps, nullptr, s.C, s.K, t, t + 1, y,
                           s.C);
    if (!args.in.silu) continue;
#pragma omp simd
    for (int64_t c = 0; c < s.C; ++c) y[c] *= sigmoid(y[c]);
  }
}

/// dz of one row from dy and z, which lies where dz goes.
template <class T>
void silu_backward(const T* dy, int64_t C, T* dz) {
#pragma omp simd
  for (int64_t c = 0; c < C; ++c) {
    const T z = dz[c], g = sigmoid(z);
    dz[c] = dy[c] * g * (T(1) + z * (T(1) - g));
  }
}

// Sequences are independent; the weight's gradient is summed over a fixed number of blocks of them.
template <class T>
void conv_backward(const CausalConvBackward<T>& args, Stream& stream) {
  const Sizes<T> s(args.in);
  const int64_t blocks = std::min<int64_t>(s.B, 8), size = s.K * s.C;
  const auto num_threads = static_cast<size_t>(omp_get_max_threads());
  const auto carve = [&](Carver& carver) {
    struct Memory {
      T *taps, *dtaps, *partial;
    };
    return Memory{carver.take<T>(size), carver.take<T>(blocks * size), carver.take<T>(blocks * size)};
  };
  Carver count(nullptr), count_thread(nullptr);
  carve(count);
  count_thread.take<T>(s.C);
  std::byte* const memory = stream.scratch(count.used() + num_threads * count_thread.used()).data();
  Carver shared(memory);
  const auto parts = carve(shared);
  T *const taps = parts.taps, *const all_dtaps = parts.dtaps, *const partial = parts.partial;
  pack_taps(args.in.weight.data, s.C, s.K, taps);
  std::fill_n(args.dx.data, args.dx.numel(), T(0));
  if (args.dhistory) std::fill_n(args.dhistory.data, args.dhistory.numel(), T(0));
#pragma omp parallel for if (s.is_worth_a_team())
  for (int64_t block = 0; block < blocks; ++block) {
    Carver own(memory + count.used() + static_cast<size_t>(omp_get_thread_num()) * count_thread.used());
    T *const dz_row = own.take<T>(s.C), *const dtaps = all_dtaps + block * size;
    std::fill_n(dtaps, size, T(0));
    for (int64_t b = s.B * block / blocks; b < s.B * (block + 1) / blocks; ++b) {
      const CausalRows<const T> x = sequence(args.in.x, args.in.history, s, b);
      const CausalRows<T> dx = sequence(args.dx, args.dhistory, s, b);
      for (int64_t t = 0; t < s.length; ++t) {
        const T* dz = args.dy.data + (b * s.length + t) * s.C;
        if (args.in.silu) {
          causal_conv_forward<T>(x, taps, nullptr, s.C, s.K, t, t + 1, dz_row, s.C);
          silu_backward(dz, s.C, dz_row);
          dz = dz_row;
        }
        causal_conv_backward<T>(x, taps, s.C, s.K, t, t + 1, dz, s.C, dtaps, nullptr, dx);
      }
    }
    for (int64_t c = 0; c < s.C; ++c)
      for (int64_t j = 0; j < s.K; ++j) partial[block * size + c * s.K + j] = dtaps[j * s.C + c];
  }
  View<T, 1> dweight;
  dweight.data = args.dweight.data;
  dweight.size[0] = size;
  dweight.stride[0] = 1;
  add_blocks<T>(partial, blocks, dweight, args.accumulate_weight);
}

HEADWAY_KERNEL(cpu, conv_forward<float>);
HEADWAY_KERNEL(cpu, conv_forward<double>);
HEADWAY_KERNEL(cpu, conv_backward<float>);
HEADWAY_KERNEL(cpu, conv_backward<double>);

}  // namespace
}  // namespace headway
