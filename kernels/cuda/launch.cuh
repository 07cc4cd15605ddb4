// What every CUDA kernel file shares: numbers as floats, launching, errors.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <nv/target>

#include <algorithm>
#include <type_traits>

#include "core/cuda/check.h"
#include "core/dtype.h"
#include "core/stream.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway::cuda {

inline constexpr int kWarp = 32;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

template <class T>
__device__ inline T from_float(float x) {
  if constexpr (std::is_same_v<T, bf16>) {
    bf16 y;
    y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
    return y;
  } else {
    return x;
  }
}

/// Values that move as one access of at most 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T values[N];
};

inline bool is_aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

/// Whether rows can move in packs of so many elements, 16 bytes.
template <int kPack, class E>
bool moves_in_packs(const View<E, 4>& rows) {
  return is_aligned(rows.data, 16) && rows.size[3] % kPack == 0 && rows.stride[0] % kPack == 0 &&
         rows.stride[1] % kPack == 0 && rows.stride[2] % kPack == 0;
}

/// Sum over the lanes of a warp, in every lane, in one fixed order.
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ inline double warp_sum(double x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

/// Sum over the threads of a block whose size is a multiple of 32, in thread 0.
template <class S>
__device__ S block_sum(S x) {
  __shared__ S of_warp[kWarp];
  x = warp_sum(x);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  __syncthreads();
  if (lane == 0) of_warp[warp] = x;
  __syncthreads();
  x = threadIdx.x < blockDim.x / kWarp ? of_warp[lane] : S(0);
  return warp == 0 ? warp_sum(x) : S(0);
}

inline unsigned blocks_for(int64_t work, int64_t per_block) {
  return static_cast<unsigned>((work + per_block - 1) / per_block);
}

/// Of the stream's GPU.
inline unsigned property(const Stream& stream, cudaDeviceAttr attribute) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attribute, stream.device().index),
             "reading the GPU's properties");
  return static_cast<unsigned>(value);
}
inline unsigned num_multiprocessors(const Stream& stream) {
  return property(stream, cudaDevAttrMultiProcessorCount);
}

/// After every launch: a bad configuration is an error here, not at the next synchronisation.
inline void check_launch(const char* name) { check_cuda(cudaGetLastError(), name); }

template <class Kernel>
void allow_shared(Kernel kernel, int bytes, const char* name) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), name);
}

/// How many blocks of a kernel run at a time on the whole GPU.
template <class Kernel>
unsigned num_resident_blocks(Kernel kernel, unsigned threads, size_t shared_bytes, const Stream& stream) {
  int per_multiprocessor = 0;
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel,
                                                           static_cast<int>(threads), shared_bytes),
             "asking for a kernel's occupancy");
  return num_multiprocessors(stream) * static_cast<unsigned>(std::max(per_multiprocessor, 1));
}

/// For kernels of launch_early: waits until the kernel before is done and its writes are seen.
__device__ inline void await_kernel_before() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (cudaGridDependencySynchronize();))
}
/// Blocks of the next kernel, where it is launched early, may be placed as those of this one end.
__device__ inline void let_next_kernel_begin() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (cudaTriggerProgrammaticLaunchCompletion();))
}

/// Launches a kernel whose blocks may be placed while those of the kernel before end, which saves a launch's
/// delay: it calls await_kernel_before() before it touches what others write or read.
template <class... Parameters, class... Args>
void launch_early(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, Stream& stream,
                  const Args&... args) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = stream.native();
  config.attrs = &early;
  config.numAttrs = property(stream, cudaDevAttrComputeCapabilityMajor) >= 9 ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(args)...), name);
}

}  // namespace headway::cuda
