#include "kernels/ops/gate.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/parallel.h"

namespace headway {
namespace {

/// Strides of the scores, zero along dimensions they repeat in.
template <class T>
struct Repeated {
  int64_t row, head, channel;
  explicit Repeated(const View<const T, 3>& z)
      : row(z.size[0] == 1 ? 0 : z.size[1] * z.size[2]),
        head(z.size[1] == 1 ? 0 : z.size[2]),
        channel(z.size[2] == 1 ? 0 : 1) {}
};

template <class T>
void gate_forward(const GateForward<T>& args, Stream&) {
  const int64_t R = args.x.size[0], H = args.x.size[1], D = args.x.size[2];
  const Repeated<T> at(args.z);
#pragma omp parallel for if (R * H * D >= kSmallestParallel)
  for (int64_t r = 0; r < R; ++r)
    for (int64_t h = 0; h < H; ++h) {
      const T* const x = args.x.data + (r * H + h) * D;
      const T* const z = args.z.data + r * at.row + h * at.head;
      T* const y = args.y.data + (r * H + h) * D;
      for (int64_t d = 0; d < D; ++d) {
        const T gate = activate(args.activation, z[d * at.channel]);
        y[d] = args.adds ? x[d] + gate : x[d] * gate;
      }
    }
}

/// Gradients of rows [first, last): dx, and += the scores' into dz, which starts at the row `first` or, where
/// scores repeat over rows, at their only one.
template <class T>
void gate_backward_rows(const GateBackward<T>& args, int64_t first, int64_t last, T* dz) {
  const int64_t H = args.x.size[1], D = args.x.size[2];
  const Repeated<T> at(args.z);
  for (int64_t r = first; r < last; ++r)
    for (int64_t h = 0; h < H; ++h) {
      const int64_t row = (r * H + h) * D;
      const T* const z = args.z.data + r * at.row + h * at.head;
      T* const to = dz + (r - first) * at.row + h * at.head;
      for (int64_t d = 0; d < D; ++d) {
        const T score = z[d * at.channel], dy = args.dy.data[row + d];
        const T slope = activation_slope(args.activation, score);
        to[d * at.channel] += args.adds ? dy * slope : dy * args.x.data[row + d] * slope;
        args.dx.data[row + d] = args.adds ? dy : dy * activate(args.activation, score);
      }
    }
}

template <class T>
void gate_backward(const GateBackward<T>& args, Stream&) {
  const int64_t R = args.x.size[0];
  std::fill_n(args.dz.data, args.dz.numel(), T(0));
  if (args.z.size[0] != 1 || R == 1) {
#pragma omp parallel for if (args.x.numel() >= kSmallestParallel)
    for (int64_t r = 0; r < R; ++r)
      gate_backward_rows(args, r, r + 1, args.dz.data + r * args.z.size[1] * args.z.size[2]);
    return;
  }
  // Scores shared by all rows: blocks of rows first, so that the order of the sum is fixed.
  const int64_t num_blocks = num_reduction_blocks(R), size = args.dz.numel();
  std::vector<T> partial(static_cast<size_t>(num_blocks * size), T(0));
#pragma omp parallel for if (args.x.numel() >= kSmallestParallel)
  for (int64_t block = 0; block < num_blocks; ++block)
    gate_backward_rows(args, R * block / num_blocks, R * (block + 1) / num_blocks,
                       partial.data() + block * size);
  add_blocks(partial.data(), num_blocks, View<T, 1>{args.dz.data, {size}, {1}}, false);
}

template <class T>
void activate_forward(const ActivateForward<T>& args, Stream&) {
  const int64_t n = args.x.size[0];
#pragma omp parallel for if (n >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i) args.y.data[i] = activate(args.activation, args.x.data[i]);
}

template <class T>
void activate_backward(const ActivateBackward<T>& args, Stream&) {
  const int64_t n = args.x.size[0];
#pragma omp parallel for if (n >= kSmallestParallel)
  for (int64_t i = 0; i < n; ++i)
    args.dx.data[i] = args.dy.data[i] * activation_slope(args.activation, args.x.data[i]);
}

template <class T>
void head_mean_forward(const HeadMeanForward<T>& args, Stream&) {
  const int64_t R = args.x.size[0], H = args.x.size[1], D = args.x.size[2];
#pragma omp parallel for if (args.x.numel() >= kSmallestParallel)
  for (int64_t r = 0; r < R; ++r)
    for (int64_t d = 0; d < D; ++d) {
      T sum = 0;
      for (int64_t h = 0; h < H; ++h) sum += args.x.data[(r * H + h) * D + d];
      args.y.data[r * D + d] = sum / static_cast<T>(H);
    }
}

template <class T>
void head_mean_backward(const HeadMeanBackward<T>& args, Stream&) {
  const int64_t R = args.dx.size[0], H = args.dx.size[1], D = args.dx.size[2];
#pragma omp parallel for if (args.dx.numel() >= kSmallestParallel)
  for (int64_t r = 0; r < R; ++r)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t d = 0; d < D; ++d)
        args.dx.data[(r * H + h) * D + d] = args.dy.data[r * D + d] / static_cast<T>(H);
}

HEADWAY_KERNEL(cpu, gate_forward<float>);
HEADWAY_KERNEL(cpu, gate_forward<double>);
HEADWAY_KERNEL(cpu, gate_backward<float>);
HEADWAY_KERNEL(cpu, gate_backward<double>);
HEADWAY_KERNEL(cpu, activate_forward<float>);
HEADWAY_KERNEL(cpu, activate_forward<double>);
HEADWAY_KERNEL(cpu, activate_backward<float>);
HEADWAY_KERNEL(cpu, activate_backward<double>);
HEADWAY_KERNEL(cpu, head_mean_forward<float>);
HEADWAY_KERNEL(cpu, head_mean_forward<double>);
HEADWAY_KERNEL(cpu, head_mean_backward<float>);
HEADWAY_KERNEL(cpu, head_mean_backward<double>);

}  // namespace
}  // namespace headway
