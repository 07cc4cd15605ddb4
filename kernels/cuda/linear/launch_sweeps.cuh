// How the sweeps of one width become blocks: by the sizes and the GPU alone, so that bits repeat.
#pragma once

#include <algorithm>

#include "kernels/cuda/linear/one_pass.cuh"
#include "kernels/cuda/linear/segment_states.cuh"

namespace headway::cuda::linear {

/// Segments of each head, for so many blocks with one segment: as many as give each multiprocessor
/// kMostSegments where half of them would have none, of at least a thousand tokens.
inline int num_segments(int64_t blocks, int chunks, int num_multiprocessors) {
  constexpr int kLeastChunks = 16;
  if (2 * blocks > num_multiprocessors) return 1;
  return static_cast<int>(std::clamp<int64_t>(kMostSegments * num_multiprocessors / blocks, 1,
                                              std::max(1, chunks / kLeastChunks)));
}

template <int kChannels, Extra kExtra>
void launch(std::span<const Sweep> sweeps, const float* slope, float* segment_states, const char* name,
            Stream& stream) {
  constexpr int kColumns = columns_of_warpgroup(kChannels), kWarpgroups = warpgroups_of_block(kExtra);
  const auto& z = sweeps[0].z.size;
  const int64_t rows = sweeps[0].x.size[3], columns = z[3];
  SweepArgs args{};
  args.count = static_cast<int>(sweeps.size());
  args.slope = slope;
  args.segment_states = segment_states;
  args.B = static_cast<int>(z[0]), args.T = static_cast<int>(z[1]), args.H = static_cast<int>(z[2]);
  const int64_t block_columns = kWarpgroups * kColumns,
                column_blocks = (columns + block_columns - 1) / block_columns;
  args.column_blocks = kWarpgroups * static_cast<int>(column_blocks);
  for (int i = 0; i < args.count; ++i) {
    const Sweep& sweep = sweeps[static_cast<size_t>(i)];
    const auto map = [](const View<const bf16, 4>& of) {
      return tensor_map<const bf16, 4>(of, {1, kChunk, 1, 64});
    };
    const int64_t width = sweep.extra > 0 ? sweep.extra + 1 : sweep.transposed ? rows : columns;
    args.sweep[i] = {.x = map(sweep.x),
                     .y = map(sweep.y),
                     .z = map(sweep.z),
                     .to = tensor_map<bf16, 4>(sweep.to, {1, kChunk, 1, kColumns}),
                     .before = sweep.before,
                     .after = sweep.after,
                     .head_stride = (sweep.transposed ? columns : rows) * width,
                     .row_stride = sweep.transposed ? 1 : width,
                     .column_stride = sweep.transposed ? width : 1,
                     .rows = static_cast<int>(rows),
                     .columns = static_cast<int>(columns),
                     .extra = sweep.extra,
                     .from_end = sweep.from_end,
                     .bias = sweep.bias,
                     .bias_of_y = sweep.bias_of_y,
                     .divisor = sweep.divisor,
                     .denominator = sweep.denominator,
                     .token_eps = sweep.token_eps,
                     .eps = sweep.eps};
  }
  const int64_t heads = z[0] * z[2], blocks = heads * column_blocks * args.count,
                chunks = (z[1] + kChunk - 1) / kChunk;
  const auto multiprocessors = static_cast<int>(num_multiprocessors(stream));
  const int wanted = num_segments(blocks, static_cast<int>(chunks), multiprocessors);
  args.segment_chunks = static_cast<int>((chunks + wanted - 1) / wanted);
  args.segments = static_cast<int>((chunks + args.segment_chunks - 1) / args.segment_chunks);
  HEADWAY_CHECK(
      blocks * args.segments <= 0x7fffffff, ShapeError,
      std::string(name) + ": " + std::to_string(blocks) + " blocks are more than the GPU kernel can take");

  if (args.segments > 1) {
    using Shape = SegmentStates<kChannels, kExtra>;
    allow_shared(segment_states_kernel<Shape>, Shape::kBytes, name);
    segment_states_kernel<Shape><<<static_cast<unsigned>(blocks * kWarpgroups * (args.segments - 1)),
                                   kWarpgroup, Shape::kBytes, stream.native()>>>(args);
    check_launch(name);
  }
  using Shape = OnePass<kChannels, kExtra>;
  static_assert(kWarpgroups * Shape::BlockState::kFloats <= kMostSegmentFloats);
  allow_shared(one_pass_kernel<Shape>, Shape::kBytes, name);
  one_pass_kernel<Shape>
      <<<static_cast<unsigned>(blocks * args.segments), Shape::kThreads, Shape::kBytes, stream.native()>>>(
          args);
  check_launch(name);
}

template <int kChannels>
void launch_sweeps(std::span<const Sweep> sweeps, const float* slope, float* segment_states, const char* name,
                   Stream& stream) {
  if constexpr (kChannels <= 128) {
    if (sweeps[0].denominator)
      return launch<kChannels, Extra::normaliser>(sweeps, slope, segment_states, name, stream);
    if (sweeps[0].divisor)
      return launch<kChannels, Extra::divisor>(sweeps, slope, segment_states, name, stream);
    if (sweeps[0].bias) return launch<kChannels, Extra::bias>(sweeps, slope, segment_states, name, stream);
  }
  launch<kChannels, Extra::none>(sweeps, slope, segment_states, name, stream);
}

}  // namespace headway::cuda::linear
