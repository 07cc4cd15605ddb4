// Copies that Hopper's copy engine makes between global and shared memory (TMA; PTX ISA 8: cp.async.bulk,
// cp.async.bulk.tensor): boxes of a tensor, which a tensor map made on the host describes, and plain runs of
// bytes. One thread asks for a copy. For sm_90a only.
//
// A load completes on an mbarrier that expects its bytes; what it loads may be read by products and by
// ordinary loads alike. Stores and additions belong to the bulk group that the asking thread commits; what
// ordinary stores wrote must be shown to them first, by fence_async_proxy() in every writing thread and a
// barrier.
#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>

#include <array>
#include <string>

#include "kernels/cuda/mma.cuh"

namespace headway::cuda {

namespace detail {

/// The driver's function, found by the runtime so that no program links the driver. Throws DeviceError where
/// the driver is too old to have it.
inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const PFN_cuTensorMapEncodeTiled_v12000 encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                                &found),
               "looking for cuTensorMapEncodeTiled");
#else
    check_cuda(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found),
               "looking for cuTensorMapEncodeTiled");
#endif
    if (found != cudaDriverEntryPointSuccess)
      throw DeviceError(
          "the GPU's driver has no cuTensorMapEncodeTiled: expected that of CUDA 12.0 or later");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

}  // namespace detail

/// Whether a tensor map can describe these rows: 16-byte aligned, rows and strides that are multiples of 16
/// bytes (stores write 16 bytes at a time, past the end of a shorter row), strides not negative and below
/// 2^40 bytes, sizes up to 2^32.
template <class E, int Rank>
bool can_map(const View<E, Rank>& view) {
  constexpr int64_t kBytes = sizeof(E);
  bool can =
      is_aligned(view.data, 16) && view.stride[Rank - 1] == 1 && view.size[Rank - 1] * kBytes % 16 == 0;
  for (int i = 0; i < Rank; ++i) {
    can = can && view.size[i] > 0 && view.size[i] <= int64_t{1} << 32;
    if (i < Rank - 1 && view.size[i] > 1)
      can = can && view.stride[i] > 0 && view.stride[i] * kBytes % 16 == 0 &&
            view.stride[i] * kBytes < int64_t{1} << 40;
  }
  return can;
}

/// Why no tensor map can describe the rows, after "because"; empty where it can, and for absent ones.
template <class E>
std::string map_refusal(const char* name, const View<E, 4>& rows) {
  if (!rows || can_map(rows)) return "";
  if (rows.size[3] % 8 != 0)
    return "a row of " + std::string(name) + " has " + std::to_string(rows.size[3]) +
           " channels, which is no multiple of 8";
  return std::string(name) + " is empty, not aligned to 16 bytes, or too large for the copy engine";
}
/// That of the first of the rows that has one.
template <class... E>
std::string first_map_refusal(const NamedRows<E>&... all) {
  std::string refusal;
  static_cast<void>(((refusal = map_refusal(all.name, all.rows)).empty() && ...));
  return refusal;
}

/// Where a map's copies are kept in the L2 cache: in pieces of that many bytes.
enum class L2Promotion { none, bytes_128, bytes_256 };

/// The map of a view of bf16 or fp32 in boxes of `box`, given like the view's sizes, slowest dimension first;
/// in coordinates of copies the fastest comes first. Boxes have at most 256 elements along a dimension. Rows
/// of 128 bytes are swizzled like those of RowTile, in 1024-byte aligned shared memory; rows of 64 bytes by
/// the swizzle of 64; others lie as they are. Loads see zeros outside the tensor, and stores write nothing
/// there. Throws DeviceError where the driver refuses: see can_map.
template <class E, int Rank>
CUtensorMap tensor_map(const View<E, Rank>& view, const std::array<int, Rank>& box,
                       L2Promotion promotion = L2Promotion::bytes_256) {
  constexpr bool kIsFloat = std::is_same_v<std::remove_const_t<E>, float>;
  static_assert(kIsFloat || std::is_same_v<std::remove_const_t<E>, bf16>);
  cuuint64_t sizes[Rank], strides[Rank];
  cuuint32_t boxes[Rank], steps[Rank];
  for (int i = 0; i < Rank; ++i) {
    const int from = Rank - 1 - i;
    sizes[i] = static_cast<cuuint64_t>(view.size[from]);
    boxes[i] = static_cast<cuuint32_t>(box[static_cast<size_t>(from)]);
    steps[i] = 1;
    if (i > 0)  // nobody steps along a dimension of one, whose stride may be anything
      strides[i - 1] = view.size[from] > 1 ? static_cast<cuuint64_t>(view.stride[from]) * sizeof(E) : 16;
  }
  const size_t row_bytes = boxes[0] * sizeof(E);
  const CUtensorMapSwizzle swizzle = row_bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : row_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                       : CU_TENSOR_MAP_SWIZZLE_NONE;
  const CUtensorMapL2promotion l2 = promotion == L2Promotion::none ? CU_TENSOR_MAP_L2_PROMOTION_NONE
                                    : promotion == L2Promotion::bytes_128
                                        ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B
                                        : CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
  CUtensorMap map;
  const CUresult status = detail::tensor_map_encoder()(
      &map, kIsFloat ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, Rank,
      const_cast<std::remove_const_t<E>*>(view.data), sizes, strides, boxes, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, l2, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw DeviceError("making a tensor map: the driver refuses it with status " +
                      std::to_string(static_cast<int>(status)));
  return map;
}

/// Has a map, a parameter of the kernel declared __grid_constant__, brought near before its first use.
__device__ inline void prefetch_tensor_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map));
}

/// Shared memory = the box at coordinates x0 (fastest), x1...; completes on the mbarrier.
__device__ inline void tma_load(unsigned to, const CUtensorMap& map, unsigned barrier, int x0, int x1,
                                int x2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(&map), "r"(x0), "r"(x1), "r"(x2), "r"(barrier)
      : "memory");
}
__device__ inline void tma_load(unsigned to, const CUtensorMap& map, unsigned barrier, int x0, int x1, int x2,
                                int x3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
      "l"(&map), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(barrier)
      : "memory");
}
/// The box at coordinates x0 (fastest), x1... = shared memory; part of the thread's bulk group.
__device__ inline void tma_store(const CUtensorMap& map, unsigned from, int x0, int x1, int x2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(&map),
      "r"(x0), "r"(x1), "r"(x2), "r"(from)
      : "memory");
}
__device__ inline void tma_store(const CUtensorMap& map, unsigned from, int x0, int x1, int x2, int x3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(&map),
      "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(from)
      : "memory");
}

/// Runs of bytes, a multiple of 16, between 16-byte aligned places.
__device__ inline void bulk_load(unsigned to, const void* from, unsigned bytes, unsigned barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
__device__ inline void bulk_store(void* to, unsigned from, unsigned bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes)
               : "memory");
}
/// Global fp32 += shared fp32; additions of several groups take place in any order.
__device__ inline void bulk_reduce_add(float* to, unsigned from, unsigned bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
               "r"(from), "r"(bytes)
               : "memory");
}
__device__ inline void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Until no more than N of the thread's groups have still to read shared memory.
template <int N>
__device__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
/// Until no more than N of the thread's groups are under way: the others have been written. Before the block
/// ends or anybody is told of them.
template <int N>
__device__ void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}

/// Orders copies in global memory before and after by this thread with its ordinary accesses. Named by its
/// space, as without it the fence is a memory barrier of the whole GPU.
__device__ inline void fence_async_proxy_global() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
__device__ inline unsigned load_acquire(const unsigned* from) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
__device__ inline void add_release(unsigned* to, unsigned value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

}  // namespace headway::cuda
