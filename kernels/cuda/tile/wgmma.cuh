// Tensor cores by warpgroup, four warps in step: products of 64xNx16 in bf16 with sums in fp32, whose right
// operand is read from shared memory (Hopper only; PTX ISA 8, wgmma.mma_async). They are under way until the
// group they are committed in is waited for.
//
// Warp w of the four has rows 16 w.. of 64 of the sums, in the layout of mma.cuh's 16x8 products, and so has
// a left operand in registers.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/mma.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HEADWAY_WGMMA
#endif

namespace headway::cuda {

constexpr int kWarpgroup = 4 * kWarp;

#ifdef HEADWAY_WGMMA

/// A matrix in shared memory of rows of 64 bf16 under the swizzle of 128 bytes. Where its columns are read,
/// block_bytes lie between one block of 64 and the next.
__device__ inline uint64_t wgmma_descriptor(unsigned address, unsigned block_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kBytesOfEightRows = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kBytesOfEightRows | (uint64_t{block_bytes >> 4} << 16) | ((address & 0x3ffffu) >> 4);
}
/// Rows first.. of a tile, channels 16 step.. of 16 as depth. Addresses stay below 2^18, so that offsets can
/// be added to the whole.
template <int D, int kRows>
__device__ uint64_t matrix_of_rows(const RowTile<D, kRows>& tile, int first, int step) {
  return wgmma_descriptor(tile.address + static_cast<unsigned>(first * 128), 16) +
         static_cast<uint64_t>((step / 4 * tile.kBlockBytes + step % 4 * 32) >> 4);
}
/// All channels of a tile, rows first.. of 16 as depth.
template <int D, int kRows>
__device__ uint64_t matrix_of_channels(const RowTile<D, kRows>& tile, int first) {
  return wgmma_descriptor(tile.address, tile.kBlockBytes) + static_cast<uint64_t>(first * 128 >> 4);
}

/// Before products read registers and shared memory that were written since the ones before.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Until no more than N of the committed groups are under way.
template <int N>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/// Keeps what is done to registers before this, and after it, on its side: ptxas moves multiplications and
/// conversions across waits and fences otherwise, and then does products one by one.
template <class T, int N>
__device__ void pin_registers(T (&x)[N]) {
  static_assert(sizeof(T) == 4);
#pragma unroll
  for (int i = 0; i < N; ++i)
    if constexpr (std::is_same_v<T, float>)
      asm volatile("" : "+f"(x[i])::"memory");
    else
      asm volatile("" : "+r"(x[i])::"memory");
}

// The registers of sums [64,N], N / 2 of a thread, and their numbers in an instruction.
#define HEADWAY_SUMS_4(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define HEADWAY_SUMS_16(i) \
  HEADWAY_SUMS_4(i), HEADWAY_SUMS_4(i + 4), HEADWAY_SUMS_4(i + 8), HEADWAY_SUMS_4(i + 12)
#define HEADWAY_SUMS_32 HEADWAY_SUMS_16(0), HEADWAY_SUMS_16(16)
#define HEADWAY_SUMS_64 HEADWAY_SUMS_32, HEADWAY_SUMS_16(32), HEADWAY_SUMS_16(48)
#define HEADWAY_NUMBERS_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define HEADWAY_NUMBERS_32 \
  HEADWAY_NUMBERS_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define HEADWAY_NUMBERS_64                                                                                 \
  HEADWAY_NUMBERS_32                                                                                       \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%" \
  "57,%58,%59,%60,%61,%62,%63"
#define HEADWAY_PRODUCT(n) "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 "

/// How an operand lies in shared memory: by rows of the depth, 16 of which a product sums over, or with its
/// other dimension, the rows or columns of the sums, side by side.
enum class Major { depth = 0, other = 1 };

/// c [64,N] = or += left [64,16] right [16,N], both in shared memory; N = 32, 64 or 128. Value 4 n + i of c
/// is value i of the n-th 16x8 sum of mma.cuh.
template <Major kLeft = Major::depth, Major kRight = Major::depth>
__device__ void wgmma(float (&c)[16], uint64_t left, uint64_t right, bool adds) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %18, 0;" HEADWAY_PRODUCT(
                   "32") "{" HEADWAY_NUMBERS_16 "}, %16, %17, p, 1, 1, %19, %20; }"
               : HEADWAY_SUMS_16(0)
               : "l"(left), "l"(right), "r"(static_cast<int>(adds)), "n"(static_cast<int>(kLeft)),
                 "n"(static_cast<int>(kRight)));
}
template <Major kLeft = Major::depth, Major kRight = Major::depth>
__device__ void wgmma(float (&c)[32], uint64_t left, uint64_t right, bool adds) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0;" HEADWAY_PRODUCT(
                   "64") "{" HEADWAY_NUMBERS_32 "}, %32, %33, p, 1, 1, %35, %36; }"
               : HEADWAY_SUMS_32
               : "l"(left), "l"(right), "r"(static_cast<int>(adds)), "n"(static_cast<int>(kLeft)),
                 "n"(static_cast<int>(kRight)));
}
template <Major kLeft = Major::depth, Major kRight = Major::depth>
__device__ void wgmma(float (&c)[64], uint64_t left, uint64_t right, bool adds) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0;" HEADWAY_PRODUCT(
                   "128") "{" HEADWAY_NUMBERS_64 "}, %64, %65, p, 1, 1, %67, %68; }"
               : HEADWAY_SUMS_64
               : "l"(left), "l"(right), "r"(static_cast<int>(adds)), "n"(static_cast<int>(kLeft)),
                 "n"(static_cast<int>(kRight)));
}
/// c [64,64] = or += left right, into the first half of the registers of [64,128].
template <Major kLeft = Major::depth, Major kRight = Major::depth>
__device__ void wgmma_half(float (&c)[64], uint64_t left, uint64_t right, bool adds) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0;" HEADWAY_PRODUCT(
                   "64") "{" HEADWAY_NUMBERS_32 "}, %32, %33, p, 1, 1, %35, %36; }"
               : HEADWAY_SUMS_32
               : "l"(left), "l"(right), "r"(static_cast<int>(adds)), "n"(static_cast<int>(kLeft)),
                 "n"(static_cast<int>(kRight)));
}

/// The same with left in registers, as two neighbouring sums, rounded, are.
template <Major kRight = Major::other>
__device__ void wgmma(float (&c)[16], const unsigned (&left)[4], uint64_t right, bool adds) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %21, 0;" HEADWAY_PRODUCT(
                   "32") "{" HEADWAY_NUMBERS_16 "}, {%16,%17,%18,%19}, %20, p, 1, 1, %22; }"
               : HEADWAY_SUMS_16(0)
               : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right),
                 "r"(static_cast<int>(adds)), "n"(static_cast<int>(kRight)));
}
template <Major kRight = Major::other>
__device__ void wgmma(float (&c)[32], const unsigned (&left)[4], uint64_t right, bool adds) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0;" HEADWAY_PRODUCT(
                   "64") "{" HEADWAY_NUMBERS_32 "}, {%32,%33,%34,%35}, %36, p, 1, 1, %38; }"
               : HEADWAY_SUMS_32
               : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right),
                 "r"(static_cast<int>(adds)), "n"(static_cast<int>(kRight)));
}
template <Major kRight = Major::other>
__device__ void wgmma(float (&c)[64], const unsigned (&left)[4], uint64_t right, bool adds) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %69, 0;" HEADWAY_PRODUCT(
                   "128") "{" HEADWAY_NUMBERS_64 "}, {%64,%65,%66,%67}, %68, p, 1, 1, %70; }"
               : HEADWAY_SUMS_64
               : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right),
                 "r"(static_cast<int>(adds)), "n"(static_cast<int>(kRight)));
}

#undef HEADWAY_SUMS_4
#undef HEADWAY_SUMS_16
#undef HEADWAY_SUMS_32
#undef HEADWAY_SUMS_64
#undef HEADWAY_NUMBERS_16
#undef HEADWAY_NUMBERS_32
#undef HEADWAY_NUMBERS_64
#undef HEADWAY_PRODUCT

/// Sums kept as 16x8 sums, as one run of registers.
template <int N>
__device__ float (&in_a_row(float (&c)[N][4]))[4 * N] {
  return reinterpret_cast<float(&)[4 * N]>(c);
}

#else
__device__ inline void wgmma_fence() {}
__device__ inline void wgmma_commit() {}
template <int N>
__device__ void wgmma_wait() {}
#endif

/// Before products and bulk copies read what copies and ordinary stores of this thread left in shared memory,
/// and a barrier.
__device__ inline void fence_async_proxy() {
#ifdef HEADWAY_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace headway::cuda
