#include "kernels/cuda/attention/backward_hopper_slices.cuh"

namespace headway::cuda::hopper {
namespace {

/// A thread per 8 channels of a row of `to` in the key tiles that are seen.
__global__ void sum_slices_kernel(View<const bf16, 4> parts, View<bf16, 4> to, int first_row, int rows) {
  constexpr int kPack = 8;
  const int64_t packs = to.size[3] / kPack, heads = to.size[2], slices = parts.size[2] / heads;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t d = index % packs * kPack, h = index / packs % heads,
                j = first_row + index / packs / heads % rows, b = index / packs / heads / rows;
  if (b >= to.size[0]) return;
  float sum[kPack] = {};
  for (int64_t n = 0; n < slices; ++n) {
    float part[kPack];
    load(&parts(b, j, h * slices + n, d), part);
#pragma unroll
    for (int i = 0; i < kPack; ++i) sum[i] += part[i];
  }
  store(&to(b, j, h, d), sum);
}

}  // namespace

void sum_slices(const View<const bf16, 4>& parts, const View<bf16, 4>& to, KeyTiles seen, Stream& stream) {
  constexpr int kThreads = 256;
  const int first = seen.first * kBackwardKeys,
            last = static_cast<int>(std::min<int64_t>((seen.last + 1) * kBackwardKeys, to.size[1]));
  const int64_t threads = to.size[0] * (last - first) * to.size[2] * (to.size[3] / 8);
  sum_slices_kernel<<<blocks_for(threads, kThreads), kThreads, 0, stream.native()>>>(parts, to, first,
                                                                                     last - first);
  check_launch(Backward::name);
}

}  // namespace headway::cuda::hopper
