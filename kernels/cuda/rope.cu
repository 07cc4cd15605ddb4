#include "kernels/ops/rope.h"

#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/turn.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = 256, kHeads = 2;

// Threads lie (channels, heads, tokens). A thread turns the pairs (i, i + R/2) of V neighbouring i, or copies
// V channels behind R, of kHeads heads of one token at a time: it reads the table once for all of them, and
// their loads are under way together.
template <class T, int V>
__global__ void __launch_bounds__(kThreads) rope_kernel(RopeRotate<T> a) {
  const int64_t T_ = a.x.size[1], H = a.x.size[2], Dh = a.x.size[3], half = a.table.size[1];
  const int64_t token = static_cast<int64_t>(blockIdx.x) * blockDim.z + threadIdx.z;
  if (token >= a.x.size[0] * T_) return;
  for (int64_t i = threadIdx.x * V; i < Dh - half; i += blockDim.x * V) {
    const bool turns = i < half;
    float angle[2 * V] = {};
    if (turns) load(a.table.data + (token % T_ * half + i) * 2, angle);
    const int64_t from = token * H * Dh + i;
    for (int64_t head = threadIdx.y; head < H; head += blockDim.y * kHeads) {
      Packed<T, V> low[kHeads], high[kHeads];
#pragma unroll
      for (int k = 0; k < kHeads; ++k)
        if (const int64_t h = head + k * blockDim.y; h < H) {
          if (turns) low[k].read(a.x.data + from + h * Dh);
          high[k].read(a.x.data + from + h * Dh + half);
        }
#pragma unroll
      for (int k = 0; k < kHeads; ++k)
        if (const int64_t h = head + k * blockDim.y; h < H) {
          if (turns) {
            float u[V], w[V];
            low[k].unpack(u);
            high[k].unpack(w);
            turn(u, w, angle, a.inverse);
            low[k].pack(u);
            high[k].pack(w);
            low[k].write(a.y.data + from + h * Dh);
          }
          high[k].write(a.y.data + from + h * Dh + half);
        }
    }
  }
}

template <class T>
void rope(const RopeRotate<T>& args, Stream& stream) {
  constexpr int V = 16 / sizeof(T);
  const int64_t tokens = args.x.size[0] * args.x.size[1], H = args.x.size[2], Dh = args.x.size[3],
                half = args.table.size[1];
  if (tokens * H * Dh == 0) return;
  const bool wide = half % V == 0 && Dh % V == 0 && is_aligned(args.x.data, 16) &&
                    is_aligned(args.y.data, 16) && is_aligned(args.table.data, 16);
  const auto channels = static_cast<unsigned>(std::min<int64_t>((Dh - half) / (wide ? V : 1), kThreads));
  const unsigned heads = std::min(blocks_for(H, kHeads), kThreads / channels);
  const unsigned block_tokens = std::min(kThreads / (channels * heads), 64u);  // the most that z can have
  const auto kernel = wide ? rope_kernel<T, V> : rope_kernel<T, 1>;
  kernel<<<blocks_for(tokens, block_tokens), dim3(channels, heads, block_tokens), 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, rope<float>);
HEADWAY_KERNEL(cuda, rope<bf16>);

}  // namespace
}  // namespace headway
