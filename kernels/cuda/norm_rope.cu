// A row is one head of one token. A few lanes share it: each has the pairs (i, i + R/2) of V neighbouring i,
// and behind R the channels i + R/2 alone, so that pairs turn within a lane and only the sum of squares is
// shared.
#include "kernels/ops/norm_rope.h"

#include "kernels/cuda/add_blocks.h"
#include "kernels/cuda/shared_rows.cuh"
#include "kernels/cuda/turn.cuh"

namespace headway {
namespace {
using namespace cuda;

constexpr int kThreads = kSharedRowThreads;
/// Blocks a multiprocessor that keep the memory busy. Lanes of other packs have more registers and would
/// spill.
template <int V>
constexpr int kForwardBlocks = V == 8 ? 6 : 1;
template <int V>
constexpr int kBackwardBlocks = V == 8 ? 4 : 1;

/// What a lane has of a row: packs of V channels, `low` the first of each pair and `high` the second.
template <class T, int V, int P>
struct Share {
  Packed<T, V> low[P], high[P];

  __device__ void read(const T* row, int64_t half, int64_t Dh) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int64_t i = channel<V>(p);
      if (i < half) low[p].read_once(row + i);
      if (i < Dh - half) high[p].read_once(row + half + i);
    }
  }
};

/// A lane's pack p of a row.
template <class T, int V>
__device__ void write(T* row, int p, int64_t half, int64_t Dh, const float (&low)[V],
                      const float (&high)[V]) {
  const int64_t i = channel<V>(p);
  if (i < half) store_once(row + i, low);
  if (i < Dh - half) store_once(row + half + i, high);
}

/// The angles of a lane's pairs.
template <int V, int P>
struct Angles {
  float values[P][2 * V] = {};

  __device__ void read(const float* token, int64_t half) {
#pragma unroll
    for (int p = 0; p < P; ++p)
      if (channel<V>(p) < half) load(token + 2 * channel<V>(p), values[p]);
  }
  __device__ void turn(int p, int64_t half, float (&u)[V], float (&w)[V], bool inverse) const {
    if (channel<V>(p) < half) cuda::turn(u, w, values[p], inverse);
  }
};

/// The position of a row's token, from row to row: divisions would take longer than all else.
class Position {
 public:
  template <class Args>
  __device__ Position(const Args& a, int64_t row, int64_t step)
      : heads_(max(static_cast<unsigned>(a.x.size[2]), 1u)),
        length_(max(static_cast<unsigned>(a.x.size[1]), 1u)),
        head_step_(static_cast<unsigned>(step) % heads_),
        step_(static_cast<unsigned>(step) / heads_ % length_),
        head_(static_cast<unsigned>(row) % heads_),
        position_(static_cast<unsigned>(row) / heads_ % length_) {}
  __device__ int64_t operator*() const { return position_; }
  __device__ void go_on() {
    head_ += head_step_;
    position_ += step_;
    if (head_ >= heads_) head_ -= heads_, ++position_;
    if (position_ >= length_) position_ -= length_;
  }

 private:
  unsigned heads_, length_, head_step_, step_, head_, position_;
};

/// A lane's channels of the weight, zero where it has none.
template <int V, int P>
struct Weights {
  float low[P][V] = {}, high[P][V] = {};

  __device__ Weights(const float* weight, int64_t half, int64_t Dh) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int64_t i = channel<V>(p);
      if (i < half) load(weight + i, low[p]);
      if (i < Dh - half) load(weight + half + i, high[p]);
    }
  }
};

template <class T, int V, int P>
__global__ void __launch_bounds__(kThreads, kForwardBlocks<V>)
    norm_rope_forward_kernel(NormRopeForward<T> a) {
  const int64_t N = a.inverse.size[0], Dh = a.x.size[3], half = a.table.size[1];
  const float over_width = 1.0f / static_cast<float>(Dh), eps = static_cast<float>(a.eps);
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  Position position(a, row, step);
  const Weights<V, P> weight(a.weight.data, half, Dh);
  Share<T, V, P> next;
  Angles<V, P> angles;
  const auto read = [&] {
    if (row < N) next.read(a.x.data + row * Dh, half, Dh);
  };
  read();
  // All lanes of a warp go on as long as one of them has a row.
  const int64_t row_of_warp = threadIdx.y % (kWarp / blockDim.x);
  while (row - row_of_warp < N) {
    if (row < N) angles.read(a.table.data + *position * half * 2, half);
    const Share<T, V, P> x = next;
    const int64_t at = row;
    row += step;
    position.go_on();
    read();
    float squares = 0;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      float u[V], w[V];
      x.low[p].unpack(u);
      x.high[p].unpack(w);
#pragma unroll
      for (int v = 0; v < V; ++v) squares += u[v] * u[v] + w[v] * w[v];
    }
    const float inverse = rsqrtf(lanes_sum(squares) * over_width + eps);
    if (at >= N) continue;
    if (threadIdx.x == 0) a.inverse.data[at] = inverse;
    T* const y = a.y.data + at * Dh;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      float u[V], w[V];
      x.low[p].unpack(u);
      x.high[p].unpack(w);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        u[v] *= inverse * weight.low[p][v];
        w[v] *= inverse * weight.high[p][v];
      }
      angles.turn(p, half, u, w, false);
      write(y, p, half, Dh, u, w);
    }
  }
}

/// dweight [blocks, Dh]: sums over the rows of a block.
template <class T, int V, int P>
__global__ void __launch_bounds__(kThreads, kBackwardBlocks<V>)
    norm_rope_backward_kernel(NormRopeBackward<T> a, float* dweight_of_blocks) {
  extern __shared__ float sums[];  // [warps, Dh]
  let_next_kernel_begin();         // add_blocks may be placed as blocks of this kernel end
  const int64_t N = a.inverse.size[0], Dh = a.x.size[3], half = a.table.size[1];
  const float over_width = 1.0f / static_cast<float>(Dh);
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  Position position(a, row, step);
  const Weights<V, P> weight(a.weight.data, half, Dh);
  float dlow[P][V] = {}, dhigh[P][V] = {};  // of the weight
  Share<T, V, P> next_x, next_dy;
  Angles<V, P> angles;
  float next_inverse = 0;
  const auto read = [&] {
    next_inverse = 0;  // where a lane has no row, nothing comes of the one before
    if (row >= N) return;
    next_x.read(a.x.data + row * Dh, half, Dh);
    next_dy.read(a.dy.data + row * Dh, half, Dh);
    next_inverse = a.inverse.data[row];
  };
  read();
  // All lanes of a warp go on as long as one of them has a row.
  const int64_t row_of_warp = threadIdx.y % (kWarp / blockDim.x);
  while (row - row_of_warp < N) {
    if (row < N) angles.read(a.table.data + *position * half * 2, half);
    float gu[P][V], gw[P][V], product = 0;  // g, from here on times inverse, then times the weight as well
#pragma unroll
    for (int p = 0; p < P; ++p) {
      next_dy.low[p].unpack(gu[p]);
      next_dy.high[p].unpack(gw[p]);
      angles.turn(p, half, gu[p], gw[p], true);
    }
    const Share<T, V, P> x = next_x;
    const float inverse = next_inverse;
    const int64_t at = row;
    row += step;
    position.go_on();
    read();
#pragma unroll
    for (int p = 0; p < P; ++p) {
      float u[V], w[V];
      x.low[p].unpack(u);
      x.high[p].unpack(w);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        gu[p][v] *= inverse;
        gw[p][v] *= inverse;
        dlow[p][v] += gu[p][v] * u[v];
        dhigh[p][v] += gw[p][v] * w[v];
        gu[p][v] *= weight.low[p][v];
        gw[p][v] *= weight.high[p][v];
        product += gu[p][v] * u[v] + gw[p][v] * w[v];
      }
    }
    const float slope = lanes_sum(product) * over_width * inverse * inverse;
    if (at >= N) continue;
    T* const dx = a.dx.data + at * Dh;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      float u[V], w[V];
      x.low[p].unpack(u);
      x.high[p].unpack(w);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        u[v] = gu[p][v] - u[v] * slope;
        w[v] = gw[p][v] - w[v] * slope;
      }
      write(dx, p, half, Dh, u, w);
    }
  }
  // Over the rows of a warp, then over the warps.
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, warp = thread / kWarp;
  const auto put = [&](float sum, int64_t d, bool has) {
    for (int offset = blockDim.x; offset < kWarp; offset *= 2)
      sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (has && thread % kWarp < blockDim.x) sums[warp * Dh + d] = sum;
  };
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int64_t i = channel<V>(p);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      put(dlow[p][v], i + v, i < half);
      put(dhigh[p][v], half + i + v, i < Dh - half);
    }
  }
  __syncthreads();
  for (int64_t d = thread; d < Dh; d += kThreads) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kThreads / kWarp; ++w) sum += sums[w * Dh + d];
    dweight_of_blocks[blockIdx.x * Dh + d] = sum;
  }
}

/// Packs of 16 bytes, where pairs lie within them and weight and table are aligned so as well.
template <class T, class Args>
bool is_wide(const Args& args, std::initializer_list<const void*> others) {
  const int64_t half = args.table.size[1];
  return has_wide_packs<T>(args.x.size[3], {args.x.data, args.weight.data, args.table.data}) &&
         has_wide_packs<T>(half, others);
}

template <class T>
void norm_rope_forward(const NormRopeForward<T>& args, Stream& stream) {
  if (args.x.numel() == 0) return;
  const bool wide = is_wide<T>(args, {args.y.data});
  const int64_t N = args.inverse.size[0], pairs = args.x.size[3] - args.table.size[1];
  with_packs<T>(args.name, N, pairs, wide, [&]<int V, int P>(dim3 block) {
    const auto kernel = norm_rope_forward_kernel<T, V, P>;
    const unsigned blocks =
        std::min(blocks_for(N, block.y), num_resident_blocks(kernel, kThreads, 0, stream));
    kernel<<<blocks, block, 0, stream.native()>>>(args);
  });
  check_launch(args.name);
}

template <class T>
void norm_rope_backward(const NormRopeBackward<T>& args, Stream& stream) {
  const int64_t N = args.inverse.size[0], Dh = args.x.size[3];
  const bool wide = is_wide<T>(args, {args.dy.data, args.dx.data});
  with_packs<T>(args.name, N, Dh - args.table.size[1], wide, [&]<int V, int P>(dim3 block) {
    const auto kernel = norm_rope_backward_kernel<T, V, P>;
    const size_t shared = static_cast<size_t>(kThreads / kWarp * Dh) * sizeof(float);
    const unsigned blocks =
        std::clamp(blocks_for(N, block.y), 1u, num_resident_blocks(kernel, kThreads, shared, stream));
    auto* const partial =
        reinterpret_cast<float*>(stream.scratch(static_cast<size_t>(blocks) * Dh * sizeof(float)).data());
    kernel<<<blocks, block, shared, stream.native()>>>(args, partial);
    check_launch(args.name);
    add_blocks(partial, blocks, Dh, args.dweight.data, args.accumulate_weight, stream);
  });
}

HEADWAY_KERNEL(cuda, norm_rope_forward<float>);
HEADWAY_KERNEL(cuda, norm_rope_forward<bf16>);
HEADWAY_KERNEL(cuda, norm_rope_backward<float>);
HEADWAY_KERNEL(cuda, norm_rope_backward<bf16>);

}  // namespace
}  // namespace headway
