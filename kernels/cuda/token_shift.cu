#include "kernels/ops/token_shift.h"

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

template <class T>
__global__ void token_shift_kernel(TokenShiftRows<T> a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t length = a.x.size[1], C = a.x.size[2];
  if (i >= a.x.numel()) return;
  const int64_t c = i % C, t = i / C % length, source = t + (a.inverse ? 1 : -1);
  T value = from_float<T>(0);
  if (c < a.first_shifted)
    value = a.x.data[i];
  else if (source >= 0 && source < length)
    value = a.x.data[i + (source - t) * C];
  else if (a.previous)
    value = a.previous.data[i / (C * length) * C + c];
  a.y.data[i] = value;
}

template <class T>
void token_shift(const TokenShiftRows<T>& args, Stream& stream) {
  constexpr int kThreads = 256;
  if (args.x.numel() == 0) return;
  token_shift_kernel<<<blocks_for(args.x.numel(), kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, token_shift<float>);
HEADWAY_KERNEL(cuda, token_shift<bf16>);

}  // namespace
}  // namespace headway
