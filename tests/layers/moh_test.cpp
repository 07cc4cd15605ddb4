#include <gtest/gtest.h>

#include "autograd/apply.h"
#include "autograd/ops/moh_gates.h"
#include "core/error.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class MohTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12;
  const Json base{{"num_heads", 6}, {"num_kv_heads", 2}, {"head_dim", 4}};

  /// Gates [H] of one token.
  std::vector<double> gates(const MohConfig& routing, int64_t num_heads, const std::vector<double>& logits) {
    const auto n = static_cast<int64_t>(logits.size());
    const Variable z(Tensor::from<double>(logits, {1, 1, n}, *stream));
    return apply<MohGates>(ctx, {.routing = routing, .num_heads = num_heads}, z)[0].value().to_vector<double>(
        *stream);
  }
};

// The shares f are constants, so the loss is differentiated as a function of the probabilities alone.
TEST_F(MohTest, BalanceLossHasTheGradientOfItsProbabilities) {
  const MohConfig routing{.shared_heads = 1, .top_k = 2, .renormalises = true};
  const Tensor logits = random({2, 7, 6});
  ctx.recording = true;
  const Variable z = Variable::leaf(logits.clone(*stream));
  const auto [gates, loss] = apply<MohGates>(ctx, {.routing = routing, .num_heads = 4}, z);
  backward(ctx, loss, MicroStep::last);
  const std::vector<double> gradient = z.grad().to_vector<double>(*stream);
  constexpr double kStep = 1e-5;
  for (int64_t i = 0; i < logits.numel(); ++i) {
    const auto loss_at = [&](double shift) {
      const Tensor moved = logits.clone(*stream);
      moved.data<double>()[i] += shift;
      return apply<MohGates>(ctx, {.routing = routing, .num_heads = 4}, Variable(moved))[1]
          .value()
          .to_vector<double>(*stream)[0];
    };
    // A step that crosses no choice leaves the shares as they are.
    EXPECT_LE(std::abs((loss_at(kStep) - loss_at(-kStep)) / (2 * kStep) - gradient[i]), 1e-9) << i;
  }
}

// With every head chosen and zero logits all renormalised gates are one.
TEST_F(MohTest, AllHeadsAlikeIsSoftmaxAttention) {
  const auto softmax = make("softmax", kDim, base);
  for (const int64_t shared : {0, 2}) {
    const auto moh = make("moh", kDim, with(base, {{"shared_heads", shared}, {"top_k", 6 - shared}}));
    for (const char* name : {"query/weight", "key/weight", "value/weight", "output/weight"})
      set(*moh, name, parameter(*softmax, name).value.to_vector<double>(*stream));
    set(*moh, "router/weight",
        std::vector<double>(static_cast<size_t>(parameter(*moh, "router/weight").shape.numel()), 0.0));
    const Tensor x = random({2, 9, kDim});
    expect_near(run(*moh, x), run(*softmax, x), 1e-14);
  }
}

TEST_F(MohTest, TiesGoToTheSmallerHead) {
  const MohConfig routing{.shared_heads = 0, .top_k = 2, .renormalises = true};
  const std::vector<double> tied = gates(routing, 4, {1, 1, 1, 1});
  for (size_t h = 0; h < tied.size(); ++h) EXPECT_EQ(tied[h], h < 2 ? 1.0 : 0.0) << h;
  const std::vector<double> later = gates(routing, 4, {0, 1, 0, 0});
  EXPECT_GT(later[1], 1);
  EXPECT_GT(later[0], 0);
  EXPECT_EQ(later[2] + later[3], 0);
}

TEST_F(MohTest, ImpossibleChoicesAreOneSentence) {
  EXPECT_THROW(declare("moh", kDim, with(base, {{"shared_heads", 6}})), ConfigError);
  EXPECT_THROW(declare("moh", kDim, with(base, {{"top_k", 5}})), ConfigError);
  EXPECT_THROW(declare("moh", kDim, with(base, {{"top_k", 1}})), ConfigError);
}

}  // namespace
}  // namespace headway::testing
