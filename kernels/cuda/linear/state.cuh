// The state of a head in the registers of a warpgroup: for each 64 of its rows, 64 x kColumns sums.
#pragma once

#include <cuda.h>

#include "kernels/cuda/linear/bias.cuh"

namespace headway::cuda::linear {

/// What a sweep has more than S: its normaliser's Z and denominators, denominators that are there, or the
/// biases' Z.
enum class Extra : uint8_t { none, normaliser, divisor, bias };

/// Columns of z of a warpgroup, for so many channels of x and y.
constexpr int columns_of_warpgroup(int channels) { return channels <= 128 ? 64 : 32; }
constexpr int warpgroups_of_block(Extra extra) { return extra == Extra::bias ? 2 : 1; }

/// A sweep as the kernels see it.
struct MappedSweep {
  CUtensorMap x, y, z, to;
  const float* before;
  float* after;
  int64_t head_stride, row_stride, column_stride;  // of these, in elements
  int rows, columns;                               // of S, without Z
  int64_t extra;                                   // offset of Z
  bool from_end;
  const float* bias;
  bool bias_of_y;
  const float* divisor;
  float* denominator;
  const float* token_eps;
  float eps;
};

/// The parameters of a launch.
struct SweepArgs {
  static constexpr int kMost = 3;
  MappedSweep sweep[kMost];
  int count;
  const float* slope;  // [H] or null
  int B, T, H;
  int column_blocks;  // of a head's columns
  int segments, segment_chunks;
  float* segment_states;  // [count,B*H,column_blocks,segments] of what a block holds

  __device__ int chunks() const { return (T + kChunk - 1) / kChunk; }
};

/// What one block computes: steps of a segment of a head, and some of its columns of z.
struct Work {
  int sweep, head, batch, head_of_batch, column_block, segment, first_step, steps;

  /// `segments` of the launch take part; a block has the columns of so many warpgroups. The later sweeps
  /// alternate: they read the same tensors from the same end, once from memory and once from the L2 cache.
  __device__ Work(const SweepArgs& a, int segments, int warpgroups = 1) {
    const int heads = a.B * a.H, column_blocks = a.column_blocks / warpgroups,
              blocks = heads * column_blocks * segments;
    int rest = static_cast<int>(blockIdx.x);
    sweep = 0;
    if (rest >= blocks) {
      rest -= blocks;
      sweep = 1 + rest % (a.count - 1);
      rest /= a.count - 1;
    }
    column_block = rest % column_blocks;
    rest /= column_blocks;
    head = rest % heads;
    segment = rest / heads;
    batch = head / a.H;
    head_of_batch = head % a.H;
    first_step = segment * a.segment_chunks;
    steps = min(a.segment_chunks, a.chunks() - first_step);
  }
  /// The first token of a step's chunk.
  __device__ int token(const SweepArgs& a, int step) const {
    const int chunk = first_step + step;
    return (a.sweep[sweep].from_end ? a.chunks() - 1 - chunk : chunk) * kChunk;
  }
  /// Those of its tokens.
  __device__ const float* biases(const SweepArgs& a, int step) const {
    return a.sweep[sweep].bias + static_cast<int64_t>(head) * a.chunks() * kChunk + token(a, step);
  }
};

template <int kPanels, int kColumns, Extra kExtra>
struct State {
  static constexpr bool kNormalised = kExtra == Extra::normaliser, kBiased = kExtra == Extra::bias;
  static constexpr int kValues = kColumns / 2;  // of a panel in a thread
  static constexpr int kFloats =                // of a warpgroup
      (kPanels * (kValues + (kNormalised ? 4 : 0)) + (kBiased ? 4 : 0)) * kWarpgroup;
  float values[kPanels][kValues];
  std::conditional_t<kNormalised, KeySum<kPanels>, NoKeySum> keys;
  std::conditional_t<kBiased, BiasSum, NoBiasSum> biases;

  /// Of a segment's state among those of the launch.
  __device__ static float* segment_state(const SweepArgs& a, const Work& w, int segment) {
    const int64_t heads = static_cast<int64_t>(a.B) * a.H,
                  block = (w.sweep * heads + w.head) * a.column_blocks + w.column_block;
    return a.segment_states + (block * a.segments + segment) * kFloats + threadIdx.x % kWarpgroup * 4;
  }
  __device__ void clear() {
#pragma unroll
    for (int p = 0; p < kPanels; ++p)
#pragma unroll
      for (int i = 0; i < kValues; ++i) values[p][i] = 0;
    keys.clear();
    biases.clear();
  }
  /// use(value, its index in the state's tensor)
  template <class Use>
  __device__ void each(const MappedSweep& sweep, const Work& w, Use use) {
    const int thread = static_cast<int>(threadIdx.x % kWarpgroup), lane = thread % kWarp,
              row = thread / kWarp * 16 + lane / 4, column = w.column_block * kColumns + lane % 4 * 2;
#pragma unroll
    for (int p = 0; p < kPanels; ++p)
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        const int r = p * 64 + row + i / 2 % 2 * 8, c = column + i / 4 * 8 + i % 2;
        if (r < sweep.rows && c < sweep.columns)
          use(values[p][i], w.head * sweep.head_stride + r * sweep.row_stride + c * sweep.column_stride);
      }
  }
  /// use(value, its index in the state's tensor), for Z and its values of a thread
  template <class Use>
  __device__ void each_key(const MappedSweep& sweep, const Work& w, Use use) {
    if constexpr (kNormalised)
      keys.each([&](int row, int p, int half) {
        if (row < sweep.rows)
          use(keys.values[p] + 2 * half, w.head * sweep.head_stride + row * sweep.row_stride + sweep.extra);
      });
  }
  /// use(first part of the biases' row, second part, its index in the state's tensor)
  template <class Use>
  __device__ void each_bias(const MappedSweep& sweep, const Work& w, Use use) {
    if constexpr (kBiased)
      biases.each([&](int column, float& high, float& low) {
        const int c = w.column_block * kColumns + column;
        if (c < sweep.columns)
          use(high, low, w.head * sweep.head_stride + sweep.extra + c * sweep.column_stride);
      });
  }
  /// What the sweep begins with, or what its segments before this one leave of it.
  __device__ void begin(const SweepArgs& a, const Work& w, float log_decay) {
    const MappedSweep& sweep = a.sweep[w.sweep];
    clear();
    if (sweep.before) {
      each(sweep, w, [&](float& value, int64_t index) { value = sweep.before[index]; });
      each_key(sweep, w, [&](float* twice, int64_t index) { twice[0] = twice[1] = sweep.before[index]; });
      each_bias(sweep, w, [&](float& high, float&, int64_t index) { high = sweep.before[index]; });
    }
    const int missing = a.chunks() * kChunk - a.T;
    for (int segment = 0; segment < w.segment; ++segment) {
      const int tokens = a.segment_chunks * kChunk - (sweep.from_end && segment == 0 ? missing : 0);
      const float decay = power_of_2(log_decay * static_cast<float>(tokens));
      const float* const from = segment_state(a, w, segment);
#pragma unroll
      for (int p = 0; p < kPanels; ++p) {
#pragma unroll
        for (int i = 0; i < kValues; i += 4)
          fade_and_add(values[p] + i, decay, from + (p * kValues + i) * kWarpgroup);
        if constexpr (kNormalised)
          fade_and_add(keys.values[p], decay, from + (kPanels * kValues + p * 4) * kWarpgroup);
      }
      if constexpr (kBiased) fade_and_add(biases.values, decay, from + kPanels * kValues * kWarpgroup);
    }
  }
  __device__ void leave(const SweepArgs& a, const Work& w) const {
    float* const to = segment_state(a, w, w.segment);
    const auto store = [&](int at, const float* four) {
      *reinterpret_cast<float4*>(to + at * kWarpgroup) = make_float4(four[0], four[1], four[2], four[3]);
    };
#pragma unroll
    for (int p = 0; p < kPanels; ++p) {
#pragma unroll
      for (int i = 0; i < kValues; i += 4) store(p * kValues + i, values[p] + i);
      if constexpr (kNormalised) store(kPanels * kValues + p * 4, keys.values[p]);
    }
    if constexpr (kBiased) store(kPanels * kValues, biases.values);
  }
  __device__ void scale(float factor) {
#pragma unroll
    for (int p = 0; p < kPanels; ++p)
#pragma unroll
      for (int i = 0; i < kValues; ++i) values[p][i] *= factor;
    keys.scale(factor);
    biases.scale(factor);
  }
  __device__ void pin() {
#pragma unroll
    for (int p = 0; p < kPanels; ++p) pin_registers(values[p]);
    keys.pin();
    biases.pin();
  }
#ifdef HEADWAY_WGMMA
  /// += y^T z of a chunk, whose z is described by `right`; ones: see Ones.
  __device__ void add(const unsigned (&left)[kPanels][4][4], uint64_t right, unsigned ones) {
#pragma unroll
    for (int p = 0; p < kPanels; ++p)
#pragma unroll
      for (int step = 0; step < 4; ++step)
        wgmma(values[p], left[p][step], right + static_cast<uint64_t>(step * 128), true);
    if constexpr (kNormalised) keys.add(left, ones);
  }
#endif

 private:
  __device__ static void fade_and_add(float* four, float decay, const float* from) {
    const float4 added = __ldcg(reinterpret_cast<const float4*>(from));
    four[0] = fmaf(four[0], decay, added.x);
    four[1] = fmaf(four[1], decay, added.y);
    four[2] = fmaf(four[2], decay, added.z);
    four[3] = fmaf(four[3], decay, added.w);
  }
};

}  // namespace headway::cuda::linear
