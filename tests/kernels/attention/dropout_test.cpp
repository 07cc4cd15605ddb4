// Which weights dropout drops, and what that makes of the output.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "kernels/cpu/attention/softmax_tiled.h"
#include "tests/kernels/attention/cases.h"
#include "tests/support/seed.h"

namespace headway::testing {
namespace {

class WeightDropoutTest : public ::testing::Test {
 protected:
  WeightDropout next(double rate, int64_t heads, int64_t queries, int64_t keys, uint32_t step = 0,
                     uint64_t first_sample = 0) const {
    Rng rng(seed);
    rng.begin(step, first_sample);
    return WeightDropout::next(rng, rate, heads, queries, keys);
  }

  const uint32_t seed = fresh_seed();
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed)};
};

TEST_F(WeightDropoutTest, EveryWeightHasAWordOfItsOwn) {
  constexpr int kHeads = 3, kQueries = 37, kKeys = 50;
  const WeightDropout dropout = next(0.5, kHeads, kQueries, kKeys);
  // A block is known by its first word.
  std::set<std::pair<uint32_t, int>> words;
  for (int b = 0; b < 2; ++b)
    for (int h = 0; h < kHeads; ++h)
      for (int t = 0; t < kQueries; ++t)
        for (int j = 0; j < kKeys; ++j)
          words.insert({dropout.block(b, h, t, j).word[0],
                        WeightDropout::word(WeightDropout::second(t), WeightDropout::second(j))});
  // Two of the 3,000 blocks have equal first words once in a thousand seeds.
  EXPECT_GE(words.size() + 4, size_t{2} * kHeads * kQueries * kKeys);
}

TEST_F(WeightDropoutTest, DropsTheShareItIsToldIndependentlyAndScalesTheRest) {
  constexpr int kSize = 300;
  for (const double rate : {0.1, 0.5, 0.9}) {
    const WeightDropout dropout = next(rate, 1, kSize, kSize);
    double kept = 0, with_right = 0, with_below = 0, with_partner = 0;
    const auto keeps = [&](int t, int j) { return dropout.factor(0, 0, t, j) > 0 ? 1 : 0; };
    for (int t = 0; t < kSize; ++t)
      for (int j = 0; j < kSize; ++j) {
        const float factor = dropout.factor(0, 0, t, j);
        EXPECT_TRUE(factor == 0 || factor == static_cast<float>(1 / (1 - rate)));
        kept += keeps(t, j);
        with_right += keeps(t, j) * keeps(t, (j + 1) % kSize);
        with_below += keeps(t, j) * keeps((t + 1) % kSize, j);
        with_partner += keeps(t, j) * keeps((t + 8) % kSize, (j + 8) % kSize);
      }
    const double count = kSize * kSize, expected = 1 - rate, pair = expected * expected;
    // Six standard deviations.
    EXPECT_NEAR(kept / count, expected, 6 * std::sqrt(rate * expected / count)) << rate;
    for (const double together : {with_right, with_below, with_partner})
      EXPECT_NEAR(together / count, pair, 6 * std::sqrt(4 * pair * (1 - pair) / count)) << rate;
  }
}

TEST_F(WeightDropoutTest, TheBitsOfASequenceDoNotDependOnItsMicroBatch) {
  const WeightDropout whole = next(0.4, 2, 20, 20, 7, 0), second_half = next(0.4, 2, 20, 20, 7, 2);
  const WeightDropout other_step = next(0.4, 2, 20, 20, 8, 2);
  int differences = 0;
  for (int b = 0; b < 2; ++b)
    for (int h = 0; h < 2; ++h)
      for (int t = 0; t < 20; ++t)
        for (int j = 0; j < 20; ++j) {
          ASSERT_EQ(second_half.factor(b, h, t, j), whole.factor(b + 2, h, t, j));
          differences += second_half.factor(b, h, t, j) != other_step.factor(b, h, t, j);
        }
  EXPECT_GT(differences, 0);
}

// The definition and the kernels share the policy: this is the formula in loops of its own.
TEST_F(WeightDropoutTest, NormalisedWeightsAreMasked) {
  constexpr Dims kDims{.B = 2, .T = 70, .H = 2, .K = 1, .Dh = 5};
  const auto p = random_problem<WithDropout<attention::Plain>>(kDims, *stream, seed);
  const Results results = run<WithDropout<attention::Plain>, double>(
      p, softmax_tiled_forward<WithDropout<attention::Plain>, double>, nullptr, *stream);
  const auto q = p.q.view<const double, 4>("q"), k = p.k.view<const double, 4>("k"),
             v = p.v.view<const double, 4>("v"), o = results["o"].view<const double, 4>("o");
  for (int b = 0; b < kDims.B; ++b)
    for (int h = 0; h < kDims.H; ++h)
      for (int t = 0; t < kDims.T; ++t) {
        std::vector<double> weights;
        double sum = 0;
        for (int j = 0; j <= t; ++j) {
          double score = 0;
          for (int d = 0; d < kDims.Dh; ++d) score += q(b, t, h, d) * k(b, j, 0, d) * p.scale();
          weights.push_back(std::exp(score));
          sum += weights.back();
        }
        for (int d = 0; d < kDims.Dh; ++d) {
          double expected = 0;
          for (int j = 0; j <= t; ++j)
            expected += weights[static_cast<size_t>(j)] / sum *
                        static_cast<double>(p.params.dropout.factor(b, h, t, j)) * v(b, j, 0, d);
          ASSERT_NEAR(o(b, t, h, d), expected, 1e-12) << "row " << t;
        }
      }
}

TEST_F(WeightDropoutTest, TheMeanOverManyStepsIsTheOutputWithoutDropout) {
  using Dropped = WithDropout<attention::Plain>;
  constexpr Dims kDims{.B = 1, .T = 12, .H = 1, .K = 1, .Dh = 2};
  constexpr int kSteps = 4000;
  constexpr double kRate = 0.3;
  auto p = random_problem<Dropped>(kDims, *stream, seed);
  const auto plain = random_problem<attention::Plain>(kDims, *stream, seed);
  const Tensor expected = run<attention::Plain, double>(
      plain, softmax_tiled_forward<attention::Plain, double>, nullptr, *stream)["o"];
  std::vector<double> mean(static_cast<size_t>(expected.numel()));
  for (int step = 0; step < kSteps; ++step) {
    p.params.dropout = next(kRate, kDims.H, kDims.T, kDims.T, static_cast<uint32_t>(step));
    const Tensor o = run<Dropped, double>(p, softmax_tiled_forward<Dropped, double>, nullptr, *stream)["o"];
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += o.data<double>()[i] / kSteps;
  }
  double largest_value = 0;
  for (int64_t i = 0; i < p.v.size(1) * 2; ++i)
    largest_value = std::max(largest_value, std::abs(p.v.view<const double, 4>("v")(0, i / 2, 0, i % 2)));
  // Of one step the variance is at most that of a row with one key.
  const double deviation = largest_value * std::sqrt(kRate / (1 - kRate) / kSteps);
  for (size_t i = 0; i < mean.size(); ++i)
    EXPECT_NEAR(mean[i], expected.data<double>()[i], 6 * deviation) << i;
}

}  // namespace
}  // namespace headway::testing
