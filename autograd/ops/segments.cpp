#include "autograd/ops/segments.h"

#include "autograd/apply.h"
#include "core/comm/sequence_split.h"
#include "kernels/ops/segment_sums.h"

namespace headway {
namespace {

struct StatesBefore {
  static constexpr const char* name = "states_before_segments";
  struct Config {
    const SequenceSplit* split = nullptr;
    int64_t segment_length = 0;
  };
  struct Saved {
    Tensor slope;
    Config config;
    auto tensors() const { return std::tie(slope); }
  };

  static Tensor sums(Context& ctx, const Config& config, SegmentSide side, const Tensor& x,
                     const Tensor& slope) {
    const SequenceSplit& split = *config.split;
    const Shape heads{x.size(0), x.size(1), x.size(2) * x.size(3)};
    const Tensor all = split.gather(x.reshape(heads), ctx.stream);
    const Tensor y = Tensor::empty(heads, x.dtype(), ctx.device());
    dispatch<double, float>(x.dtype(), name, [&]<class T>() {
      launch(SegmentSums<T>{.x = all.view<const T, 4>("x"),
                            .slope = slope.optional_view<const T, 1>("slope"),
                            .segment_length = config.segment_length,
                            .rank = split.rank(),
                            .side = side,
                            .y = y.view<T, 3>("y")},
             ctx.stream);
    });
    return y.reshape(x.shape());
  }
  static Tensor forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x,
                        const Tensor& slope) {
    if (saved) *saved = {slope, config};
    return sums(ctx, config, SegmentSide::before, x, slope);
  }
  static Grads<2> backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<2>&) {
    return {sums(ctx, saved.config, SegmentSide::after, dy, saved.slope), Tensor()};
  }
};

struct FromSegmentsBefore {
  static constexpr const char* name = "from_segments_before";
  struct Config {
    const SequenceSplit* split = nullptr;
  };
  struct Saved {
    Config config;
    auto tensors() const { return std::tie(); }
  };

  /// For each segment of this rank, the rows of the segment that is `step` segments later in the sequence;
  /// zeros where the sequence has no such segment.
  static Tensor moved(Context& ctx, const Config& config, const Tensor& x, int64_t step) {
    const SequenceSplit& split = *config.split;
    const Zigzag zigzag = split.zigzag();
    const Tensor all = split.gather(x, ctx.stream).reshape({zigzag.num_ranks * x.size(0), -1});
    const Tensor y = Tensor::zeros({x.size(0), x.numel() / x.size(0)}, x.dtype(), ctx.stream);
    for (int64_t row = 0; row < x.size(0); ++row) {
      const int64_t from = zigzag.segment(split.rank(), row % 2) + step;
      if (from < 0 || from >= zigzag.num_segments()) continue;
      const int64_t place = zigzag.rank_of(from) * x.size(0) + row / 2 * 2 + zigzag.half_of(from);
      y.slice(0, row, row + 1).copy_from(all.slice(0, place, place + 1), ctx.stream);
    }
    return y.reshape(x.shape());
  }
  static Tensor forward(Context& ctx, Saved* saved, const Config& config, const Tensor& x) {
    if (saved) *saved = {config};
    return moved(ctx, config, x, -1);
  }
  static Grads<1> backward(Context& ctx, const Saved& saved, const Tensor& dy, const Needs<1>&) {
    return {moved(ctx, saved.config, dy, 1)};
  }
};

}  // namespace

Variable states_before_segments(Context& ctx, const Variable& x, const Tensor& slope,
                                int64_t segment_length) {
  return apply<StatesBefore>(ctx, {.split = ctx.split, .segment_length = segment_length}, x, slope);
}

Variable from_segments_before(Context& ctx, const Variable& x) {
  return apply<FromSegmentsBefore>(ctx, {.split = ctx.split}, x);
}

}  // namespace headway
