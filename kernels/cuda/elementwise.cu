#include "kernels/ops/elementwise.h"

#include "kernels/cuda/map.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/dropout_words.h"
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

template <class T>
void scale(const ScaleForward<T>& args, Stream& stream) {
  map(
      args.y.size[0], stream, args.name,
      [factor = static_cast<float>(args.factor)] __device__(int64_t, float x, float& y) { y = x * factor; },
      in(args.x.data), out(args.y.data));
}

constexpr int kDropoutThreads = 256, kDropoutPacks = 4, kDropoutElements = 8;

/// random_block of core/rng.h with the keys of the rounds made once, on the host: in the kernel they were a
/// fifth of all instructions.
struct RoundKeys {
  static constexpr int kRounds = 10;
  uint32_t words[kRounds][2];

  explicit RoundKeys(uint64_t seed) {
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    for (auto& [word0, word1] : words) {
      word0 = key0, word1 = key1;
      key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
  }
};

__device__ PhiloxBlock block_of(const RandomKey& key, const RoundKeys& keys, uint64_t number) {
  PhiloxBlock c{{static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32), key.stream, key.step}};
#pragma unroll
  for (const auto& [word0, word1] : keys.words) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c.word[0], product1 = uint64_t{0xCD9E8D57u} * c.word[2];
    c = {{static_cast<uint32_t>(product1 >> 32) ^ c.word[1] ^ word0, static_cast<uint32_t>(product1),
          static_cast<uint32_t>(product0 >> 32) ^ c.word[3] ^ word1, static_cast<uint32_t>(product0)}};
  }
  return c;
}

/// Ten rounds of Philox give four numbers, so a pack of 8 elements draws two blocks and not eight. Needs the
/// first element to be the first of its block. A number is kept from `kept` bits on.
template <class T>
__global__ void __launch_bounds__(kDropoutThreads)
    dropout_kernel(const T* x, T* y, int64_t n, RandomKey key, const __grid_constant__ RoundKeys keys,
                   uint32_t kept, float scale) {
  constexpr int V = kDropoutElements, kStep = kDropoutThreads * V;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kStep * kDropoutPacks + threadIdx.x * V;
  Packed<T, V> packs[kDropoutPacks];
#pragma unroll
  for (int p = 0; p < kDropoutPacks; ++p)
    if (const int64_t i = first + p * kStep; i + V <= n) packs[p].read(x + i);
#pragma unroll
  for (int p = 0; p < kDropoutPacks; ++p) {
    const int64_t i = first + p * kStep;
    if (i + V > n) break;
    float values[V];
    packs[p].unpack(values);
#pragma unroll
    for (int block = 0; block < V / 4; ++block) {
      const PhiloxBlock random =
          block_of(key, keys, (key.first_element + static_cast<uint64_t>(i)) / 4 + block);
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        float& value = values[4 * block + word];
        value = random.word[word] >= kept ? value * scale : 0.0f;
      }
    }
    packs[p].pack(values);
    packs[p].write(y + i);
  }
  // What is left behind the last whole pack, an element a thread.
  const int64_t j = n / V * V + threadIdx.x;
  if (blockIdx.x == 0 && j < n)
    y[j] = from_float<T>(random_bits(key, static_cast<uint64_t>(j)) >= kept ? to_float(x[j]) * scale : 0.0f);
}

template <class T>
void dropout(const DropoutMask<T>& args, Stream& stream) {
  const int64_t n = args.x.size[0];
  if (n == 0) return;
  const RandomKey key = args.key;
  const float rate = static_cast<float>(args.rate), scale = static_cast<float>(1 / (1 - args.rate));
  if (rate < 1 && key.first_element % 4 == 0 && is_aligned(args.x.data, 16) && is_aligned(args.y.data, 16)) {
    dropout_kernel<<<blocks_for(n, kDropoutThreads * kDropoutPacks * kDropoutElements), kDropoutThreads, 0,
                     stream.native()>>>(args.x.data, args.y.data, n, key, RoundKeys(key.seed),
                                        first_kept_word(args.rate), scale);
    check_launch(args.name);
    return;
  }
  map(
      n, stream, args.name,
      [key, rate, scale] __device__(int64_t i, float x, float& y) {
        y = uniform(key, static_cast<uint64_t>(i)) >= rate ? x * scale : 0.0f;
      },
      in(args.x.data), out(args.y.data));
}

HEADWAY_KERNEL(cuda, accumulate<float, float>);
HEADWAY_KERNEL(cuda, accumulate<bf16, bf16>);
HEADWAY_KERNEL(cuda, accumulate<float, bf16>);
HEADWAY_KERNEL(cuda, accumulate<bf16, float>);
HEADWAY_KERNEL(cuda, add<float>);
HEADWAY_KERNEL(cuda, add<bf16>);
HEADWAY_KERNEL(cuda, scale<float>);
HEADWAY_KERNEL(cuda, scale<bf16>);
HEADWAY_KERNEL(cuda, dropout<float>);
HEADWAY_KERNEL(cuda, dropout<bf16>);

}  // namespace
}  // namespace headway
