#include <array>
#include <limits>

#include "autograd/apply.h"
#include "autograd/ops/activation.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/gelu_mlp.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/linear_cross_entropy.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/norm_rope.h"
#include "autograd/ops/rope.h"
#include "kernels/attention/variants/plain.h"
#include "kernels/attention/variants/sink.h"
#include "kernels/attention/variants/sliding_window.h"
#include "kernels/ops/elementwise.h"
#include "tests/cuda/attention_case.h"

namespace headway::testing {
namespace {

using Inputs = std::vector<Variable>;
using GpuOps = GpuTest;

TEST_F(GpuOps, Linear) {
  for (const auto& [rows, out, in] :
       {std::array<int64_t, 3>{1, 1, 1}, {3, 5, 7}, {64, 192, 128}, {257, 96, 33}}) {
    SCOPED_TRACE(rows);
    check({values({rows, in}), values({out, in}), vector({out})},
          [](Context& c, const Inputs& x) { return apply<Linear>(c, {}, x[0], x[1], x[2]); });
    check({values({rows, in}), values({out, in})},
          [](Context& c, const Inputs& x) { return apply<Linear>(c, {}, x[0], x[1], Variable()); });
  }
}

TEST_F(GpuOps, EmbeddingSumsRowsOfEqualIds) {
  for (const auto& [tokens, vocab, width] :
       {std::array<int64_t, 3>{1, 1, 3}, {40, 7, 16}, {3000, 300, 24}, {700, 5000, 9}, {13, 9, 2056}}) {
    SCOPED_TRACE(tokens);
    check({ids({2, tokens}, vocab), values({vocab, width})},
          [](Context& c, const Inputs& x) { return apply<Embedding>(c, {}, x[0], x[1]); });
  }
}

TEST_F(GpuOps, LearnedPositions) {
  check({values({3, 5, 16}), values({9, 16})}, [](Context& c, const Inputs& x) {
    return apply<AddPositions>(c, {.positions = {.first = 2}}, x[0], x[1]);
  });
}

TEST_F(GpuOps, Norms) {
  for (const NormKind kind : {NormKind::rms, NormKind::layer})
    for (const auto& [rows, width] : {std::array<int64_t, 2>{1, 1},
                                      {5, 7},
                                      {300, 64},
                                      {1, 768},
                                      {2999, 768},
                                      {6, 776},
                                      {33, 4096},
                                      {9, 4104}}) {
      SCOPED_TRACE(width);
      if (width == 1 && kind == NormKind::layer) continue;  // its output is the bias alone
      const double term = width == 1 ? 1 : 0.1;             // its output is a sign, which has no gradient
      check(
          {values({rows, width}), vector({width}, 1), vector({width})},
          [&](Context& c, const Inputs& x) {
            return apply<Norm>(c, {.kind = kind, .eps = 1e-5}, x[0], x[1],
                               kind == NormKind::layer ? x[2] : Variable());
          },
          term);
    }
}

TEST_F(GpuOps, NormsOfSums) {
  for (const NormKind kind : {NormKind::rms, NormKind::layer})
    for (const auto& [rows, width] : {std::array<int64_t, 2>{1, 8}, {5, 7}, {2999, 768}, {9, 4104}})
      for (const bool uses_sum : {false, true})
        check({values({rows, width}), values({rows, width}), vector({width}, 1), vector({width})},
              [&](Context& c, const Inputs& x) {
                const auto [sum, normed] = apply<AddNorm>(c, {.kind = kind, .eps = 1e-5}, x[0], x[1], x[2],
                                                          kind == NormKind::layer ? x[3] : Variable());
                return uses_sum ? apply<Add>(c, {}, sum, apply<Silu>(c, {}, normed)) : normed;
              });
}

TEST_F(GpuOps, GradientsOfNormsAreAddedToThoseOfWhatGoesAround) {
  for (const auto& [rows, width] : {std::array<int64_t, 2>{5, 7}, {2999, 768}, {9, 4104}})
    check({values({rows, width}), vector({width}, 1)}, [&](Context& c, const Inputs& x) {
      return apply<Add>(c, {}, x[0],
                        apply<Norm>(c, {.kind = NormKind::rms, .eps = 1e-5}, x[0], x[1], Variable()));
    });
}

// Widths that the fused products take and ones that they do not. Where all of a single row's inner values are
// negative, what GELU leaves of them is less than what it leaves of their roundings.
TEST_F(GpuOps, GeluMlp) {
  constexpr double kTerm = 0.5;
  for (const auto& [rows, width, inner, out] : {std::array<int64_t, 4>{1, 8, 8, 8},
                                                {5, 7, 13, 9},
                                                {37, 24, 40, 16},
                                                {300, 128, 512, 128},
                                                {129, 64, 260, 64}}) {
    const double scale = 1 / std::sqrt(static_cast<double>(width)),
                 inner_scale = 1 / std::sqrt(static_cast<double>(inner));
    check(
        {values({rows, width}, 2), values({inner, width}, scale), vector({inner}),
         values({out, inner}, inner_scale), vector({out})},
        [](Context& c, const Inputs& x) { return apply<GeluMlp>(c, {}, x[0], x[1], x[2], x[3], x[4]); },
        kTerm);
    check(
        {values({rows, width}, 2), values({inner, width}, scale), values({out, inner}, inner_scale)},
        [](Context& c, const Inputs& x) {
          return apply<GeluMlp>(c, {}, x[0], x[1], Variable(), x[2], Variable());
        },
        kTerm);
  }
}

TEST_F(GpuOps, Activations) {
  for (const int64_t count : {1, 1000, 4099}) {
    check({values({count}), values({count})},
          [](Context& c, const Inputs& x) { return apply<SwiGlu>(c, {}, x[0], x[1]); });
    check({values({count}, 2)}, [](Context& c, const Inputs& x) { return apply<Silu>(c, {}, x[0]); });
    check({values({count}), values({count})},
          [](Context& c, const Inputs& x) { return apply<Add>(c, {}, x[0], x[1]); });
    check({values({count})},
          [](Context& c, const Inputs& x) { return apply<Scale>(c, {.factor = 27.7}, x[0]); });
  }
}

TEST_F(GpuOps, DropoutDropsTheSameElementsAsTheCpu) {
  check({values({4, 333})}, [](Context& c, const Inputs& x) { return dropout(c, x[0], 0.3); });
}

TEST_F(GpuOps, DropoutHasTheBitsOfTheCpuWhereverItStarts) {
  const auto run = [&](Device device, int64_t n, int64_t offset, uint64_t first) {
    const auto stream = backend(device).make_stream();
    const Tensor x =
        Tensor::from<float>(random_values<float>(n + offset, seed_, 1, 1.0), {n + offset}, *stream);
    const Tensor y = Tensor::zeros({n + offset}, DType::f32, *stream);
    launch(DropoutMask<float>{.x = x.slice(0, offset, offset + n).view<const float, 1>("x"),
                              .y = y.slice(0, offset, offset + n).view<float, 1>("y"),
                              .key = {.seed = seed_, .step = 2, .stream = 3, .first_element = first},
                              .rate = 0.3},
           *stream);
    return to_doubles(y, *stream);
  };
  for (const int64_t n : {1, 7, 8, 1003, 4096})
    for (const int64_t offset : {0, 1})
      for (const uint64_t first : {uint64_t{0}, uint64_t{3}, (uint64_t{1} << 34) + 4})
        EXPECT_EQ(run({Device::Kind::cuda, 0}, n, offset, first), run({}, n, offset, first))
            << n << " from " << offset << ", element " << first;
}

TEST_F(GpuOps, Rope) {
  for (const int64_t width : {64, 48, 6})
    check({values({2, 5, 3, 64}), vector({5, width / 2, 2})},
          [](Context& c, const Inputs& x) { return apply<Rope>(c, {}, x[0], x[1].value()); });
  for (const int64_t heads : {1, 4, 9, 17})
    check({values({3, 7, heads, 80}), vector({7, 24, 2})},
          [](Context& c, const Inputs& x) { return apply<Rope>(c, {}, x[0], x[1].value()); });
}

TEST_F(GpuOps, NormRope) {
  for (const auto& [heads, width, rotated] : {std::array<int64_t, 3>{1, 2, 2},
                                              {3, 64, 64},
                                              {12, 64, 32},
                                              {5, 80, 48},
                                              {2, 128, 128},
                                              {1, 256, 0},
                                              {7, 48, 6},
                                              {3, 33, 16},
                                              {2, 7, 0}}) {
    SCOPED_TRACE(std::to_string(width) + ", rotated " + std::to_string(rotated));
    // The most are more rows than the GPU takes at a time.
    for (const int64_t tokens : {1, 9, width == 64 ? 3001 : 500}) {
      std::vector<Input> inputs{values({2, tokens, heads, width}), vector({width}, 1)};
      if (rotated > 0) inputs.push_back(vector({tokens, rotated / 2, 2}));
      check(inputs, [&](Context& c, const Inputs& x) {
        return apply<NormRope>(c, {}, x[0], x[1], rotated > 0 ? x[2].value() : Tensor());
      });
    }
  }
}

TEST_F(GpuOps, LinearCrossEntropyInOneBlockAndInMany) {
  for (const size_t block_bytes : {size_t{64} << 20, size_t{40000}})
    for (const auto& [tokens, vocab] :
         {std::array<int64_t, 2>{1, 2}, {50, 257}, {130, 1024}, {2500, 264}, {300, 20000}, {3, 60000}}) {
      SCOPED_TRACE(vocab);
      check({values({tokens, 64}, 0.5), values({vocab, 64}, 0.2), ids({tokens}, vocab, tokens > 5)},
            [&](Context& c, const Inputs& x) {
              return apply<LinearCrossEntropy>(c, {.loss_scale = 0.25, .block_bytes = block_bytes}, x[0],
                                               x[1], x[2]);
            });
    }
}

constexpr AttentionDims kDims[] = {{1, 1, 1, 1, 1, 16},      {2, 17, 17, 2, 1, 32}, {1, 100, 100, 4, 2, 64},
                                   {2, 129, 129, 2, 2, 128}, {1, 7, 40, 2, 1, 64},  {1, 65, 65, 3, 3, 80},
                                   {1, 200, 200, 2, 1, 64},  {1, 1, 150, 2, 2, 64}, {1, 33, 33, 1, 1, 256},
                                   {1, 300, 300, 2, 1, 128}};

class GpuAttention : public GpuAttentionTest {
 protected:
  /// Rows that see key `at`, which is no number, have no number in o and in the log-sum-exp; others have.
  template <class T>
  void expect_nan_after(int64_t length, int64_t width) {
    const auto stream = backend(Device{Device::Kind::cuda, 0}).make_stream();
    const Shape shape{1, length, 1, width};
    const auto random = [&](uint32_t which) {
      return random_values<float>(shape.numel(), seed_, which, 1.0);
    };
    const auto tensor = [&](const std::vector<float>& numbers) {
      return Tensor::from<T>(std::vector<T>(numbers.begin(), numbers.end()), shape, *stream);
    };
    const int64_t at = length / 2;
    std::vector<float> keys = random(2);
    keys[static_cast<size_t>(at * width + 3)] = std::numeric_limits<float>::quiet_NaN();
    const Tensor q = tensor(random(1)), k = tensor(keys), v = tensor(random(3)), o = tensor(random(4)),
                 lse = Tensor::zeros({1, 1, length}, DType::f32, *stream);
    launch(SoftmaxForward<attention::Plain, T>{.q = q.view<const T, 4>("q"),
                                               .k = k.view<const T, 4>("k"),
                                               .v = v.view<const T, 4>("v"),
                                               .o = o.view<T, 4>("o"),
                                               .log_sum_exp = lse.view<float, 3>("lse")},
           *stream);
    const auto rows = to_doubles(o, *stream), sums = to_doubles(lse, *stream);
    for (int64_t t = 0; t < length; ++t) {
      EXPECT_EQ(std::isnan(sums[static_cast<size_t>(t)]), t >= at) << "row " << t << " of " << length;
      for (int64_t d = 0; d < width; ++d)
        EXPECT_EQ(std::isnan(rows[static_cast<size_t>(t * width + d)]), t >= at) << t << " of " << length;
    }
  }
};

TEST_F(GpuAttention, Plain) {
  for (const AttentionDims& d : kDims) check_attention<attention::Plain>(d, {});
}
TEST_F(GpuAttention, SlidingWindow) {
  for (const AttentionDims& d : kDims)
    for (const int window : {30, 64})
      check_attention<attention::SlidingWindow>(d, {.params = {.window = window}});
}
TEST_F(GpuAttention, SinkWithAndWithoutWindow) {
  for (const AttentionDims& d : kDims)
    for (const int window : {0, 20}) check_attention<attention::Sink>(d, {.params = {.window = window}});
}

TEST_F(GpuAttention, AKeyThatIsNoNumberReachesEveryRowThatSeesIt) {
  for (const int64_t length : {1, 5, 70, 130})
    for (const int64_t width : {64, 80}) {
      expect_nan_after<float>(length, width);
      expect_nan_after<bf16>(length, width);
    }
}

}  // namespace
}  // namespace headway::testing
