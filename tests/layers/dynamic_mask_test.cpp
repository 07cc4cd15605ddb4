// Dynamic masks against plain loops: which keys a token keeps, and what becomes of the others.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "autograd/apply.h"
#include "autograd/ops/dynamic_mask.h"
#include "autograd/ops/softmax_attention.h"
#include "core/error.h"
#include "kernels/attention/variants/key_masked.h"
#include "kernels/attention/variants/plain.h"
#include "kernels/ops/dynamic_mask.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class DynamicMaskTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12;
  const Json base{{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 4}, {"top_w", 3}};

  /// One sequence of 4 query heads on 2 key/value heads, and scores u [1,T,2].
  struct Inputs {
    Tensor q, k, v, u;
  };
  Inputs inputs(int64_t length) {
    return {random({1, length, 4, 4}), random({1, length, 2, 4}), random({1, length, 2, 4}),
            random({1, length, 2})};
  }
  struct Chosen {
    Tensor bias, end;  // [1,2,T]
  };
  Chosen choose(const Tensor& u, int64_t top_w, bool exponential = true, double rate = 0.7) {
    const Tensor rates = Tensor::from<double>(std::vector<double>(2, rate), {2}, *stream);
    const auto [bias, end] =
        apply<DynamicMask>(ctx, {.top_w = top_w, .exponential = exponential}, Variable(u), Variable(rates));
    return {bias.value(), end.value()};
  }
  Variable attend(const Variable& q, const Variable& k, const Variable& v, const Variable& bias,
                  const Tensor& end) {
    return softmax_attention<attention::KeyMasked>(
        ctx, {.q = q, .k = k, .v = v, .key_bias = bias, .key_end = end}, {});
  }
  Tensor attend(const Inputs& in, const Chosen& chosen) {
    return attend(Variable(in.q), Variable(in.k), Variable(in.v), Variable(chosen.bias), chosen.end).value();
  }
  /// Whether token i keeps key j of key/value head g: fewer than top_w of the keys so far are better, where
  /// the newer of equals is.
  static bool keeps(const Tensor& u, int64_t top_w, int64_t g, int64_t i, int64_t j) {
    const auto score = u.view<const double, 3>("u");
    int64_t better = 0;
    for (int64_t other = 0; other <= i; ++other)
      better += score(0, other, g) > score(0, j, g) || (score(0, other, g) == score(0, j, g) && other > j);
    return better < top_w;
  }
  /// The attention over the kept keys, in plain loops.
  Tensor expected(const Inputs& in, const Tensor& bias, int64_t top_w) {
    const int64_t length = in.q.size(1);
    const Tensor y = Tensor::zeros(in.q.shape(), DType::f64, *stream);
    const auto q = in.q.view<const double, 4>("q"), k = in.k.view<const double, 4>("k"),
               v = in.v.view<const double, 4>("v");
    const auto delta = bias.view<const double, 3>("bias");
    const auto out = y.view<double, 4>("y");
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t i = 0; i < length; ++i) {
        double total = 0;
        for (int64_t j = 0; j <= i; ++j) {
          if (!keeps(in.u, top_w, h / 2, i, j)) continue;
          double score = delta(0, h / 2, j);
          for (int64_t d = 0; d < 4; ++d) score += q(0, i, h, d) * k(0, j, h / 2, d) / 2;
          total += std::exp(score);
          for (int64_t d = 0; d < 4; ++d) out(0, i, h, d) += std::exp(score) * v(0, j, h / 2, d);
        }
        for (int64_t d = 0; d < 4; ++d) out(0, i, h, d) /= total;
      }
    return y;
  }
};

// Around the tiles of the kernels, and one, some or all keys.
TEST_F(DynamicMaskTest, KeptKeysAreAttendedToAndNoOthers) {
  for (const int64_t length : {1, 70, 131})
    for (const int64_t top_w : {int64_t{1}, int64_t{2}, int64_t{31}, int64_t{32}, int64_t{33}, int64_t{63},
                                int64_t{64}, int64_t{65}, length - 1, length, length + 1}) {
      if (top_w < 1) continue;
      SCOPED_TRACE(std::to_string(top_w) + " of " + std::to_string(length));
      Inputs in = inputs(length);
      for (int64_t t = 0; t + 3 < length; t += 3)  // ties
        in.u.view<double, 3>("u")(0, t, 0) = in.u.view<double, 3>("u")(0, t + 3, 0);
      for (const bool exponential : {true, false}) {
        const Chosen chosen = choose(in.u, top_w, exponential);
        expect_near(attend(in, chosen), expected(in, chosen.bias, top_w), 1e-12);
      }
    }
}

TEST_F(DynamicMaskTest, TokensKeepUpToTopWKeysAndTakeNoneBack) {
  constexpr int64_t kTokens = 40;
  const Inputs in = inputs(kTokens);
  for (const int64_t top_w : {1, 5, 39, 40}) {
    const auto end = choose(in.u, top_w).end;
    const auto e = end.view<const int32_t, 3>("end");
    for (int64_t g = 0; g < 2; ++g)
      for (int64_t i = 0; i < kTokens; ++i) {
        int64_t kept = 0, dropped = 0;
        for (int64_t j = 0; j <= i; ++j) {
          kept += i < e(0, g, j);
          dropped += e(0, g, j) == i;
        }
        EXPECT_EQ(kept, std::min(i + 1, top_w));
        EXPECT_EQ(dropped, i < top_w ? 0 : 1) << "token " << i;
      }
  }
}

// As long as all keys are kept it is dense attention with a bias per key; the first token beyond drops one
// key, for itself alone.
TEST_F(DynamicMaskTest, AllKeysKeptIsDenseAttentionWithABiasPerKey) {
  constexpr int64_t kTokens = 9;
  const Inputs in = inputs(kTokens);
  const Chosen all = choose(in.u, kTokens), fewer = choose(in.u, kTokens - 1);
  const Tensor dense = attend(in, all), without = attend(in, fewer);
  expect_near(dense, expected(in, all.bias, kTokens), 1e-13);
  for (const int32_t end : all.end.to_vector<int32_t>(*stream)) EXPECT_EQ(end, kNeverDropped);
  int64_t dropped = 0;
  for (const int32_t end : fewer.end.to_vector<int32_t>(*stream)) dropped += end == kTokens - 1;
  EXPECT_EQ(dropped, 2);  // one of each key/value head
  expect_equal_bits(without.slice(1, 0, kTokens - 1), dense.slice(1, 0, kTokens - 1));
  EXPECT_NE(without.slice(1, kTokens - 1, kTokens).to_vector<double>(*stream),
            dense.slice(1, kTokens - 1, kTokens).to_vector<double>(*stream));

  // Scores of zero give every key the bias exp(0) or 0, which a softmax does not see.
  const Tensor plain = softmax_attention<attention::Plain>(
                           ctx, {.q = Variable(in.q), .k = Variable(in.k), .v = Variable(in.v)}, {})
                           .value();
  for (const bool exponential : {true, false})
    expect_near(attend(in, choose(in.u, kTokens, exponential, 0)), plain, 1e-13);
}

TEST_F(DynamicMaskTest, AConstantInAllBiasesShiftsTheLogSumExpAlone) {
  const Inputs in = inputs(11);
  const Chosen chosen = choose(in.u, 3);
  const Tensor shifted = chosen.bias.clone(*stream);
  for (int64_t i = 0; i < shifted.numel(); ++i) shifted.data<double>()[i] += 2.5;
  const auto run_core = [&](const Tensor& bias) {
    SoftmaxForward<attention::KeyMasked, double> args;
    const Tensor o = Tensor::empty(in.q.shape(), DType::f64, Device{}),
                 lse = Tensor::empty({1, 4, 11}, DType::f64, Device{});
    args.q = in.q.view<const double, 4>("q");
    args.k = in.k.view<const double, 4>("k");
    args.v = in.v.view<const double, 4>("v");
    args.slots.key_bias = bias.view<const double, 3>("bias");
    args.slots.key_end = chosen.end.view<const int32_t, 3>("end");
    args.scale = 0.5;
    args.o = o.view<double, 4>("o");
    args.log_sum_exp = lse.view<double, 3>("log_sum_exp");
    launch(args, *stream);
    return std::pair{o, lse};
  };
  const auto [o, lse] = run_core(chosen.bias);
  const auto [o_shifted, lse_shifted] = run_core(shifted);
  expect_near(o_shifted, o, 1e-13);
  for (int64_t i = 0; i < lse.numel(); ++i)
    EXPECT_NEAR(lse_shifted.data<double>()[i] - lse.data<double>()[i], 2.5, 1e-13);
}

// Gradients of a softmax's input sum to zero, so those of the biases do; a key that no token keeps has none.
TEST_F(DynamicMaskTest, GradientsOfBiasesSumToZeroAndUnseenKeysHaveNone) {
  constexpr int64_t kTokens = 20;
  const Inputs in = inputs(kTokens);
  const Tensor dy = random(in.q.shape());
  const Chosen chosen = choose(in.u, 4);
  // Keys 3 and 11 of the second head are never seen, not even by themselves.
  const auto end = chosen.end.view<int32_t, 3>("end");
  for (const int64_t j : {3, 11}) end(0, 1, j) = static_cast<int32_t>(j);
  ctx.recording = true;
  const Variable q = Variable::leaf(in.q), k = Variable::leaf(in.k), v = Variable::leaf(in.v),
                 bias = Variable::leaf(chosen.bias), y = attend(q, k, v, bias, chosen.end);
  backward(ctx, std::span(&y, 1), std::span(&dy, 1), MicroStep::last);
  ctx.recording = false;
  const auto dbias = bias.grad().view<const double, 3>("dbias");
  for (int64_t g = 0; g < 2; ++g) {
    double sum = 0, magnitude = 0;
    for (int64_t j = 0; j < kTokens; ++j) sum += dbias(0, g, j), magnitude += std::abs(dbias(0, g, j));
    EXPECT_LE(std::abs(sum), 1e-13 * magnitude);
  }
  const auto dk = k.grad().view<const double, 4>("dk"), dv = v.grad().view<const double, 4>("dv");
  const Tensor moved_k = in.k.clone(*stream), moved_v = in.v.clone(*stream);
  for (const int64_t j : {3, 11}) {
    EXPECT_EQ(dbias(0, 1, j), 0);
    for (int64_t d = 0; d < 4; ++d) {
      EXPECT_EQ(dk(0, j, 1, d), 0);
      EXPECT_EQ(dv(0, j, 1, d), 0);
      moved_k.view<double, 4>("k")(0, j, 1, d) += 1;
      moved_v.view<double, 4>("v")(0, j, 1, d) += 1;
    }
  }
  expect_equal_bits(
      attend(Variable(in.q), Variable(moved_k), Variable(moved_v), Variable(chosen.bias), chosen.end).value(),
      y.value());
}

// Dropped keys lose their gradients through attention, but not their values' part in the choice of scores.
TEST_F(DynamicMaskTest, AnUntrainedRateLearnsAndHidesTheScoresFromTheGradient) {
  const auto layer = make("dynamic_mask", kDim, base);
  const Tensor x = random({2, 9, kDim});
  const auto gradient = gradients(*layer, x, random(x.shape()));
  expect_zero(gradient.at("dt/weight"));
  for (const double value : gradient.at("A").to_vector<double>(*stream)) EXPECT_NE(value, 0);
}

// One key: the value of the best so far, whatever the query.
TEST_F(DynamicMaskTest, TheOnlyKeptKeyIsTheBestSoFar) {
  const Inputs in = inputs(30);
  const Tensor y = attend(in, choose(in.u, 1));
  const auto out = y.view<const double, 4>("y"), v = in.v.view<const double, 4>("v");
  const auto u = in.u.view<const double, 3>("u");
  for (int64_t h = 0; h < 4; ++h) {
    int64_t best = 0;
    for (int64_t i = 0; i < 30; ++i) {
      if (u(0, i, h / 2) >= u(0, best, h / 2)) best = i;
      for (int64_t d = 0; d < 4; ++d) EXPECT_NEAR(out(0, i, h, d), v(0, best, h / 2, d), 1e-14);
    }
  }
}

// exp(80) is a bias beside which every product of queries and keys vanishes, but no overflow in float.
TEST_F(DynamicMaskTest, LargeScoresStayFiniteInFloat) {
  const auto layer = make("dynamic_mask", kDim, with(base, {{"score_bias", true}}), DType::f32);
  fill(*layer, "A", 1);
  fill(*layer, "dt/bias", 79);  // a = log(1 + exp(u)) is about 79 plus the score
  const Tensor x = random({2, 12, kDim}, 0.1, DType::f32), dy = random(x.shape(), 1, DType::f32);
  for (const double value : to_doubles(run(*layer, x), *stream)) EXPECT_TRUE(std::isfinite(value));
  for (const auto& [path, gradient] : gradients(*layer, x, dy))
    for (const double value : to_doubles(gradient, *stream)) EXPECT_TRUE(std::isfinite(value)) << path;
}

// A key whose score is no number is the token's own at least, so it shows.
TEST_F(DynamicMaskTest, AScoreThatIsNoNumberReachesTheOutput) {
  for (const int64_t top_w : {1, 3, 50})
    for (const int64_t at : {0, 7, 19}) {
      Inputs in = inputs(20);
      in.u.view<double, 3>("u")(0, at, 1) = std::numeric_limits<double>::quiet_NaN();
      const Tensor y = attend(in, choose(in.u, top_w));
      for (const int64_t h : {2, 3}) EXPECT_TRUE(std::isnan(y.view<double, 4>("y")(0, at, h, 0))) << top_w;
      EXPECT_FALSE(std::isnan(y.view<double, 4>("y")(0, 19, 0, 0)));
    }
}

// The ends of all keys say the same as sorting every prefix.
TEST_F(DynamicMaskTest, EndsAreThoseOfSortingEveryPrefix) {
  constexpr int64_t kTokens = 40;
  const Variable rate(Tensor::from<double>(std::vector<double>{0.7}, {1}, *stream));
  const Tensor u = random({1, kTokens, 1});
  for (int64_t j = 3; j < kTokens; j += 7) u.data<double>()[j] = u.data<double>()[j - 2];  // ties
  for (const int64_t top_w : {1, 5, 39, 60}) {
    const auto [bias, end] =
        apply<DynamicMask>(ctx, {.top_w = top_w, .exponential = true}, Variable(u), rate);
    for (int64_t i = 0; i < kTokens; ++i) {
      std::vector<int64_t> keys(static_cast<size_t>(i + 1));
      std::iota(keys.begin(), keys.end(), 0);
      std::sort(keys.begin(), keys.end(), [&](int64_t a, int64_t b) {
        const double x = u.data<double>()[a], y = u.data<double>()[b];
        return x > y || (x == y && a > b);
      });
      for (size_t rank = 0; rank < keys.size(); ++rank)
        EXPECT_EQ(i < end.value().data<int32_t>()[keys[rank]], static_cast<int64_t>(rank) < top_w)
            << "token " << i << " key " << keys[rank] << " top " << top_w;
    }
  }
}

TEST_F(DynamicMaskTest, AnUntrainedLayerIsASlidingWindow) {
  const auto window =
      make("softmax", kDim,
           {{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 4}, {"window", 3}, {"qk_norm", true}});
  const auto masked = make("dynamic_mask", kDim, base);
  for (const char* name : {"query/weight", "key/weight", "value/weight", "output/weight", "query_norm/weight",
                           "key_norm/weight"})
    set(*masked, name, parameter(*window, name).value.to_vector<double>(*stream));
  const Tensor x = random({2, 11, kDim});
  expect_near(run(*masked, x), run(*window, x), 1e-14);
}

TEST_F(DynamicMaskTest, AWindowIsRefused) {
  EXPECT_THROW(declare("dynamic_mask", kDim, with(base, {{"window", 4}})), ConfigError);
}

}  // namespace
}  // namespace headway::testing
