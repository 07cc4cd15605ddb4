// Tensor cores by warp: products of 16x8x16 in bf16 with sums in fp32, and tiles of bf16 rows in shared
// memory for them. PTX ISA 8: mma.m16n8k16, ldmatrix, cp.async.
//
// Of a 16x8 sum, lane l holds in c[0], c[1] row l/4 and in c[2], c[3] row l/4 + 8, columns 2 (l%4) and the
// next. Two neighbouring sums, rounded, are a 16x16 left operand.
#pragma once

#include <climits>
#include <string>

#include "kernels/cuda/launch.cuh"

namespace headway::cuda {

__device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ inline void store_shared(unsigned address, unsigned value) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
__device__ inline void store_shared(unsigned address, uint4 value) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(value.x), "r"(value.y),
               "r"(value.z), "r"(value.w)
               : "memory");
}
__device__ inline uint4 load_shared(unsigned address) {
  uint4 value;
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

__device__ inline float load_shared_bf16(unsigned address) {
  unsigned short bits;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(bits) : "r"(address) : "memory");
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

/// Four 8x8 matrices; the address of lane l is that of row l%8 of matrix l/8.
__device__ inline void load_matrices(unsigned (&to)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}
__device__ inline void load_matrices_transposed(unsigned (&to)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}
/// The reverse of load_matrices, Hopper only.
__device__ inline void store_matrices(unsigned address, unsigned a, unsigned b, unsigned c, unsigned d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}

/// c += a b
__device__ inline void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// The two bf16 of a register as floats.
__device__ inline float2 unpack_pair(unsigned pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
__device__ inline unsigned round_pair(float low, float high) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

/// 16 bytes from global memory, or zeros.
__device__ inline void copy_async(unsigned to, const void* from, bool exists) {
  const int bytes = exists ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;"); }
/// Until no more than N of the committed groups are under way.
template <int N>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/// kRows rows of D bf16 in shared memory, in blocks of 64 channels. The 16-byte pieces of a block's row
/// change places with the row's number, so that eight rows of a matrix lie in different banks; it is also how
/// products by warpgroup want them.
template <int D, int kRows>
struct RowTile {
  static_assert(D % 64 == 0 && kRows % 8 == 0);
  unsigned address;  // a multiple of 1024

  static constexpr int kBytes = kRows * D * 2, kBlockBytes = kRows * 128;

  __device__ unsigned at(int row, int piece) const {
    return address + static_cast<unsigned>(piece / 8 * kBlockBytes + row * 128 + (((piece ^ row) & 7) << 4));
  }
  /// = from[b, first.., h], zeros behind the last row and channel. A sequence has less than 2^31 elements.
  template <int kThreads>
  __device__ void load(const View<const bf16, 4>& from, int b, int first, int h) const {
    constexpr int kPieces = D / 8, kAtOnce = kThreads / kPieces;
    static_assert(kRows % kAtOnce == 0);
    const int piece = static_cast<int>(threadIdx.x) % kPieces,
              thread_row = static_cast<int>(threadIdx.x) / kPieces;
    const int channels_left = static_cast<int>(from.size[3]) - piece * 8;
    const int rows_left = channels_left > 0 ? static_cast<int>(from.size[1]) - first : 0;
    const bf16* const sequence = from.data + b * from.stride[0] + h * from.stride[2];
    const int stride = static_cast<int>(from.stride[1]), source = (first + thread_row) * stride + piece * 8;
#pragma unroll
    for (int n = 0; n < kRows / kAtOnce; ++n) {
      const int row = thread_row + n * kAtOnce;
      copy_async(at(row, piece), sequence + (source + n * kAtOnce * stride), row < rows_left);
    }
  }
  /// Left operand: rows first.. of 16, channels 16 step.. of 16.
  __device__ void left(unsigned (&to)[4], int first, int step) const {
    const int lane = threadIdx.x % kWarp, i = lane / 8;
    load_matrices(to, at(first + (i & 1) * 8 + lane % 8, step * 2 + (i >> 1)));
  }
  /// Left operand: channels 16 pair.. of 16 as rows, and the rows first.. of 16 as depth.
  __device__ void channels_left(unsigned (&to)[4], int first, int pair) const {
    const int lane = threadIdx.x % kWarp, i = lane / 8;
    load_matrices_transposed(to, at(first + (i >> 1) * 8 + lane % 8, pair * 2 + (i & 1)));
  }
  /// Right operands of two sums, whose columns are the rows first.. of 16, and whose depth are the channels
  /// 16 step.. of 16: {0, 1} and {2, 3}.
  __device__ void rows_right(unsigned (&to)[4], int first, int step) const {
    const int lane = threadIdx.x % kWarp, i = lane / 8;
    load_matrices(to, at(first + (i >> 1) * 8 + lane % 8, step * 2 + (i & 1)));
  }
  /// The same with channels 16 pair.. of 16 as columns and the rows first.. of 16 as depth.
  __device__ void channels_right(unsigned (&to)[4], int first, int pair) const {
    const int lane = threadIdx.x % kWarp, i = lane / 8;
    load_matrices_transposed(to, at(first + (i & 1) * 8 + lane % 8, pair * 2 + (i >> 1)));
  }
};

/// Why a RowTile cannot be filled from or stored to these rows, 16 bytes at a time with offsets within a
/// sequence in 32 bits; empty where it can.
template <class E>
std::string row_refusal(const char* name, const View<E, 4>& rows) {
  if (!rows) return "";
  if (rows.size[3] % 8 != 0)
    return "a row of " + std::string(name) + " has " + std::to_string(rows.size[3]) +
           " channels, which is no multiple of 8";
  if (!moves_in_packs<8>(rows)) return std::string(name) + " is not aligned to 16 bytes";
  if (rows.size[1] * rows.stride[1] > INT_MAX)
    return "a sequence of " + std::string(name) + " has more than 2^31 - 1 elements";
  return "";
}

/// A view with its name, for refusals.
template <class E>
struct NamedRows {
  const char* name;
  const View<E, 4>& rows;
};
template <class E>
NamedRows(const char*, const View<E, 4>&) -> NamedRows<E>;

/// That of the first of the rows that cannot be moved.
template <class... E>
std::string first_row_refusal(const NamedRows<E>&... all) {
  std::string refusal;
  static_cast<void>(((refusal = row_refusal(all.name, all.rows)).empty() && ...));
  return refusal;
}

/// The refusal of a tensor-core kernel for any other dtype.
template <class Args>
std::string needs_bf16(const Args&, const Stream&) {
  return "it computes in bf16";
}

}  // namespace headway::cuda
