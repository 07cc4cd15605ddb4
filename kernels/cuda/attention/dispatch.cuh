// Which kernel takes a call of the softmax core on a GPU: the first of a list that does not refuse it.
#pragma once

#include "kernels/cuda/attention/backward_hopper.cuh"
#include "kernels/cuda/attention/forward_hopper.cuh"
#include "kernels/cuda/attention/softmax_simple.cuh"
#include "kernels/cuda/attention/softmax_tensor.cuh"
#include "kernels/kernel_choice.h"

namespace headway::cuda {

/// The kernels of each direction and dtype, the fastest first; the scalar ones take everything.
template <class Args>
struct SoftmaxKernels;

template <class V>
struct SoftmaxKernels<SoftmaxForward<V, bf16>> {
  using Args = SoftmaxForward<V, bf16>;
  static constexpr std::array<KernelOption<Args>, 3> options{
      {{"Hopper", hopper::forward_refusal<V>, hopper::forward<V>},
       {"tensor-core", tensor::forward_refusal<V>, tensor::forward<V>},
       {"scalar", nullptr, simple::forward<V, bf16>}}};
};
template <class V>
struct SoftmaxKernels<SoftmaxBackward<V, bf16>> {
  using Args = SoftmaxBackward<V, bf16>;
  static constexpr std::array<KernelOption<Args>, 3> options{
      {{"Hopper", hopper::backward_refusal<V>, hopper::backward<V>},
       {"tensor-core", tensor::backward_refusal<V>, tensor::backward<V>},
       {"scalar", nullptr, simple::backward<V, bf16>}}};
};

template <class V>
struct SoftmaxKernels<SoftmaxForward<V, float>> {
  using Args = SoftmaxForward<V, float>;
  static constexpr std::array<KernelOption<Args>, 2> options{
      {{"tensor-core", needs_bf16<Args>, nullptr}, {"scalar", nullptr, simple::forward<V, float>}}};
};
template <class V>
struct SoftmaxKernels<SoftmaxBackward<V, float>> {
  using Args = SoftmaxBackward<V, float>;
  static constexpr std::array<KernelOption<Args>, 2> options{
      {{"tensor-core", needs_bf16<Args>, nullptr}, {"scalar", nullptr, simple::backward<V, float>}}};
};

/// Args: SoftmaxForward or SoftmaxBackward of float or bf16.
template <class Args>
void softmax_attention(const Args& args, Stream& stream) {
  const auto& q = args.q.size;
  if (q[0] * q[1] * q[2] == 0) return;
  run_first(SoftmaxKernels<Args>::options, args, stream);
}

}  // namespace headway::cuda
