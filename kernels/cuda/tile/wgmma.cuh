// Tensor cores by warpgroup, four warps in step: products of 64xNx16 in bf16 with sums in fp32, whose right
// operand is read from shared memory (Hopper only; PTX ISA 8, wgmma.mma_async).
//
// Warp w of the four has rows 16 w.. of 64 of the sums, in the layout of mma.cuh's 16x8 products, and so has
// a left operand in registers.
#pragma once

#include <cstdint>

#include "kernels/cuda/mma.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HEADWAY_WGMMA
#endif

namespace headway::cuda {

constexpr int kWarpgroup = 4 * kWarp;

#ifdef HEADWAY_WGMMA

/// A matrix in shared memory of rows of 64 bf16 under the swizzle of 128 bytes. Where its columns are read,
/// block_bytes lie between one block of 64 and the next.
__device__ inline uint64_t matrix_at(unsigned address, unsigned block_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kBytesOfEightRows = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kBytesOfEightRows | (uint64_t{block_bytes >> 4} << 16) | ((address & 0x3ffffu) >> 4);
}
/// Rows first.. of a tile, channels 16 step.. of 16 as depth. Addresses stay below 2^18, so that offsets can
/// be added to the whole.
template <int D, int kRows>
__device__ uint64_t matrix_of_rows(const RowTile<D, kRows>& tile, int first, int step) {
  return matrix_at(tile.address + static_cast<unsigned>(first * 128), 16) +
         static_cast<uint64_t>((step / 4 * tile.kBlockBytes + step % 4 * 32) >> 4);
}
/// All channels of a tile, rows first.. of 16 as depth.
template <int D, int kRows>
__device__ uint64_t matrix_of_channels(const RowTile<D, kRows>& tile, int first) {
  return matrix_at(tile.address, tile.kBlockBytes) + static_cast<uint64_t>(first * 128 >> 4);
}

/// Before products read registers and shared memory that were written since the ones before.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Until no more than N of the committed groups are under way.
template <int N>
__device__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// The registers of sums [64,64] and [64,128], from c[n] on, and their numbers in an instruction.
#define HEADWAY_ROW(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define HEADWAY_SUMS(n)                                                                           \
  HEADWAY_ROW(n), HEADWAY_ROW(n + 1), HEADWAY_ROW(n + 2), HEADWAY_ROW(n + 3), HEADWAY_ROW(n + 4), \
      HEADWAY_ROW(n + 5), HEADWAY_ROW(n + 6), HEADWAY_ROW(n + 7)
#define HEADWAY_FIRST                                                                                       \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%" \
  "28,%29,%30,%31"
#define HEADWAY_SECOND                                                                                       \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57," \
  "%58,%59,%60,%61,%62,%63"

/// c [64,64] or [64,128] (+)= left [64,16] right^T, both stored by rows of the depth.
__device__ inline void multiply_add_async(float (&c)[8][4], uint64_t left, uint64_t right, bool adds) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %34, 0;"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" HEADWAY_FIRST "}, %32, %33, p, 1, 1, 0, 0; }"
      : HEADWAY_SUMS(0)
      : "l"(left), "l"(right), "r"(static_cast<int>(adds)));
}
__device__ inline void multiply_add_async(float (&c)[16][4], uint64_t left, uint64_t right, bool adds) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %66, 0;"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" HEADWAY_FIRST "," HEADWAY_SECOND
      "}, %64, %65, p, 1, 1, 0, 0; }"
      : HEADWAY_SUMS(0), HEADWAY_SUMS(8)
      : "l"(left), "l"(right), "r"(static_cast<int>(adds)));
}
/// c [64,64] or [64,128] += left [64,16] right, stored by rows of the sums' columns.
__device__ inline void multiply_add_async(float (&c)[8][4], const unsigned (&left)[4], uint64_t right) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" HEADWAY_FIRST
               "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
               : HEADWAY_SUMS(0)
               : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right));
}
__device__ inline void multiply_add_async(float (&c)[16][4], const unsigned (&left)[4], uint64_t right) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" HEADWAY_FIRST "," HEADWAY_SECOND
               "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;"
               : HEADWAY_SUMS(0), HEADWAY_SUMS(8)
               : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right));
}

#undef HEADWAY_ROW
#undef HEADWAY_SUMS
#undef HEADWAY_FIRST
#undef HEADWAY_SECOND

#else
__device__ inline void begin_products() {}
__device__ inline void commit_products() {}
template <int N>
__device__ void wait_for_products() {}
#endif

/// Before products read what copies and ordinary stores of this thread left in shared memory, and a barrier.
__device__ inline void show_to_products() {
#ifdef HEADWAY_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace headway::cuda
