#include "kernels/ops/segment_sums.h"

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 256;

/// A thread per element of y.
__global__ void segment_sums_kernel(SegmentSums<float> a) {
  const int64_t H = a.y.size[1], E = a.y.size[2];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.y.numel()) return;
  const int64_t e = i % E, h = i / E % H, row = i / E / H;
  const float factor = a.slope.data ? expf(-a.slope.data[h] * static_cast<float>(a.segment_length)) : 1.0f;
  const int64_t count = a.count(Zigzag{a.x.size[0]}.segment(a.rank, row % 2));
  float sum = 0;
  for (int64_t j = 0; j < count; ++j) sum = factor * sum + a.term(j, row / 2, h)[e];
  a.y.data[i] = sum;
}

void segment_sums(const SegmentSums<float>& args, Stream& stream) {
  if (args.y.numel() == 0) return;
  segment_sums_kernel<<<blocks_for(args.y.numel(), kThreads), kThreads, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, segment_sums);

}  // namespace
}  // namespace headway
