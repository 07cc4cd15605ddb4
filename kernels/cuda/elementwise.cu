#include "kernels/ops/elementwise.h"

#include "kernels/cuda/map.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/ops/accumulate.h"

namespace headway {
namespace {
using namespace cuda;

template <class To, class From>
void accumulate(const Accumulate<To, From>& args, Stream& stream) {
  const int64_t n = args.to.size[0];
  if (args.overwrite)
    map(
        n, stream, args.name, [] __device__(int64_t, float x, float& y) { y = x; }, in(args.from.data),
        out(args.to.data));
  else
    map(
        n, stream, args.name, [] __device__(int64_t, float x, float& y) { y += x; }, in(args.from.data),
        in_out(args.to.data));
}

template <class T>
void add(const AddForward<T>& args, Stream& stream) {
  map(
      args.y.size[0], stream, args.name, [] __device__(int64_t, float a, float b, float& y) { y = a + b; },
      in(args.a.data), in(args.b.data), out(args.y.data));
}

constexpr int kDropoutThreads = 256, kDropoutElements = 8;

__device__ float dropped(float x, uint32_t bits, float rate, float scale) {
  return uniform_from(bits) >= rate ? x * scale : 0.0f;
}

/// Ten rounds of Philox give four numbers, so a thread of 8 elements draws two blocks and not eight. Needs
/// the first element to be the first of its block.
template <class T>
__global__ void __launch_bounds__(kDropoutThreads)
    dropout_kernel(const T* x, T* y, int64_t n, RandomKey key, float rate, float scale) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kDropoutThreads + threadIdx.x) * kDropoutElements;
  if (i + kDropoutElements > n) {
    for (int64_t j = i; j < n; ++j)
      y[j] = from_float<T>(dropped(to_float(x[j]), random_bits(key, static_cast<uint64_t>(j)), rate, scale));
    return;
  }
  float values[kDropoutElements];
  load(x + i, values);
  const uint64_t first_block = (key.first_element + static_cast<uint64_t>(i)) / 4;
#pragma unroll
  for (int block = 0; block < kDropoutElements / 4; ++block) {
    const PhiloxBlock random = random_block(key, first_block + block);
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      float& value = values[4 * block + word];
      value = dropped(value, random.word[word], rate, scale);
    }
  }
  store(y + i, values);
}

template <class T>
void dropout(const DropoutMask<T>& args, Stream& stream) {
  const int64_t n = args.x.size[0];
  if (n == 0) return;
  const RandomKey key = args.key;
  const float rate = static_cast<float>(args.rate), scale = static_cast<float>(1 / (1 - args.rate));
  if (key.first_element % 4 == 0 && is_aligned(args.x.data, 16) && is_aligned(args.y.data, 16)) {
    dropout_kernel<<<blocks_for(n, kDropoutThreads * kDropoutElements), kDropoutThreads, 0,
                     stream.native()>>>(args.x.data, args.y.data, n, key, rate, scale);
    check_launch(args.name);
    return;
  }
  map(
      n, stream, args.name,
      [key, rate, scale] __device__(int64_t i, float x, float& y) {
        y = dropped(x, random_bits(key, static_cast<uint64_t>(i)), rate, scale);
      },
      in(args.x.data), out(args.y.data));
}

HEADWAY_KERNEL(cuda, accumulate<float, float>);
HEADWAY_KERNEL(cuda, accumulate<bf16, bf16>);
HEADWAY_KERNEL(cuda, accumulate<float, bf16>);
HEADWAY_KERNEL(cuda, accumulate<bf16, float>);
HEADWAY_KERNEL(cuda, add<float>);
HEADWAY_KERNEL(cuda, add<bf16>);
HEADWAY_KERNEL(cuda, dropout<float>);
HEADWAY_KERNEL(cuda, dropout<bf16>);

}  // namespace
}  // namespace headway
