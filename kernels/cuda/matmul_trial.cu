#include "kernels/cuda/matmul_trial.h"

#include <algorithm>
#include <array>

#include "kernels/cuda/launch.cuh"

namespace headway::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPerBlock = kThreads * 16;

__global__ void fill_random_kernel(bf16* values, int64_t count) {
  const int64_t first = blockIdx.x * kPerBlock;
  for (int64_t i = first + threadIdx.x; i < min(first + kPerBlock, count); i += kThreads) {
    uint32_t hash = static_cast<uint32_t>(i) * 2654435761u;
    hash = (hash ^ hash >> 15) * 2246822519u;
    values[i] = bf16(static_cast<float>((hash ^ hash >> 13) & 0xffff) / 65536.0f - 0.5f);
  }
}

__global__ void count_different_kernel(const uint32_t* a, const uint32_t* b, int64_t count,
                                       unsigned* num_different) {
  const int64_t first = blockIdx.x * kPerBlock;
  bool differs = false;
  for (int64_t i = first + threadIdx.x; i < min(first + kPerBlock, count); i += kThreads)
    differs |= a[i] != b[i];
  if (differs) atomicAdd(num_different, 1);
}

}  // namespace

void fill_random(bf16* values, int64_t count, Stream& stream) {
  if (count == 0) return;
  fill_random_kernel<<<blocks_for(count, kPerBlock), kThreads, 0, stream.native()>>>(values, count);
  check_launch("fill_random");
}

unsigned count_different(const uint32_t* a, const uint32_t* b, int64_t count, unsigned* num_different,
                         Stream& stream) {
  unsigned result = 0;
  check_cuda(cudaMemsetAsync(num_different, 0, sizeof(unsigned), stream.native()), "count_different");
  if (count > 0)
    count_different_kernel<<<blocks_for(count, kPerBlock), kThreads, 0, stream.native()>>>(a, b, count,
                                                                                           num_different);
  check_launch("count_different");
  check_cuda(
      cudaMemcpyAsync(&result, num_different, sizeof(unsigned), cudaMemcpyDeviceToHost, stream.native()),
      "count_different");
  stream.synchronize();
  return result;
}

double median_milliseconds(const std::function<void()>& run, Stream& stream) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check_cuda(cudaEventCreate(&begin), "median_milliseconds");
  check_cuda(cudaEventCreate(&end), "median_milliseconds");
  std::array<float, 5> times = {};
  run();
  for (float& time : times) {
    check_cuda(cudaEventRecord(begin, stream.native()), "median_milliseconds");
    run();
    check_cuda(cudaEventRecord(end, stream.native()), "median_milliseconds");
    check_cuda(cudaEventSynchronize(end), "median_milliseconds");
    check_cuda(cudaEventElapsedTime(&time, begin, end), "median_milliseconds");
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::ranges::sort(times);
  return static_cast<double>(times[times.size() / 2]);
}

}  // namespace headway::cuda
