// Dynamic masks against plain loops: which keys a token keeps, and what becomes of the others.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
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
  Inputs inputs(int64_t length, DType dtype = DType::f64) {
    return {random({1, length, 4, 4}, 1, dtype), random({1, length, 2, 4}, 1, dtype),
            random({1, length, 2, 4}, 1, dtype), random({1, length, 2}, 1, dtype)};
  }
  Tensor converted(const Tensor& x, DType dtype) {
    return from_doubles(to_doubles(x, *stream), x.shape(), dtype, *stream);
  }
  Inputs converted(const Inputs& in, DType dtype) {
    return {converted(in.q, dtype), converted(in.k, dtype), converted(in.v, dtype), converted(in.u, dtype)};
  }
  struct Chosen {
    Tensor bias, end;  // [1,2,T]
  };
  Chosen choose(const Tensor& u, int64_t top_w, bool exponential = true, double rate = 0.7) {
    const Tensor rates = from_doubles(std::vector<double>(2, rate), {2}, u.dtype(), *stream);
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
  struct Gradients {
    Tensor y, dq, dk, dv, dbias;
  };
  /// The output, and the gradients for its gradient dy.
  Gradients differentiate(const Inputs& in, const Chosen& chosen, const Tensor& dy) {
    ctx.recording = true;
    const Variable q = Variable::leaf(in.q), k = Variable::leaf(in.k), v = Variable::leaf(in.v),
                   bias = Variable::leaf(chosen.bias), y = attend(q, k, v, bias, chosen.end);
    backward(ctx, std::span(&y, 1), std::span(&dy, 1), MicroStep::last);
    ctx.recording = false;
    return {y.value(), q.grad(), k.grad(), v.grad(), bias.grad()};
  }
  struct Core {
    Tensor o, log_sum_exp;
  };
  Core run_core(const Inputs& in, const Tensor& bias, const Tensor& end) {
    SoftmaxForward<attention::KeyMasked, double> args;
    const Core core{Tensor::empty(in.q.shape(), DType::f64, Device{}),
                    Tensor::empty({1, 4, in.q.size(1)}, DType::f64, Device{})};
    args.q = in.q.view<const double, 4>("q");
    args.k = in.k.view<const double, 4>("k");
    args.v = in.v.view<const double, 4>("v");
    args.slots.key_bias = bias.view<const double, 3>("bias");
    args.slots.key_end = end.view<const int32_t, 3>("end");
    args.scale = 0.5;
    args.o = core.o.view<double, 4>("o");
    args.log_sum_exp = core.log_sum_exp.view<double, 3>("log_sum_exp");
    launch(args, *stream);
    return core;
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
  /// The attention over the kept keys and its gradients for dy, in plain loops.
  Gradients expected(const Inputs& in, const Tensor& bias, int64_t top_w, const Tensor& dy) {
    const int64_t length = in.q.size(1);
    const auto zeros = [&](const Tensor& like) { return Tensor::zeros(like.shape(), DType::f64, *stream); };
    const Gradients all{zeros(in.q), zeros(in.q), zeros(in.k), zeros(in.v), zeros(bias)};
    const auto q = in.q.view<const double, 4>("q"), k = in.k.view<const double, 4>("k"),
               v = in.v.view<const double, 4>("v"), g = dy.view<const double, 4>("dy");
    const auto delta = bias.view<const double, 3>("bias");
    const auto y = all.y.view<double, 4>("y"), dq = all.dq.view<double, 4>("dq"),
               dk = all.dk.view<double, 4>("dk"), dv = all.dv.view<double, 4>("dv");
    const auto ddelta = all.dbias.view<double, 3>("dbias");
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t i = 0; i < length; ++i) {
        std::vector<std::pair<int64_t, double>> weights;  // of the kept keys
        double total = 0, along = 0;
        for (int64_t j = 0; j <= i; ++j) {
          if (!keeps(in.u, top_w, h / 2, i, j)) continue;
          double score = delta(0, h / 2, j);
          for (int64_t d = 0; d < 4; ++d) score += q(0, i, h, d) * k(0, j, h / 2, d) / 2;
          weights.emplace_back(j, std::exp(score));
          total += std::exp(score);
        }
        for (auto& [j, weight] : weights) {
          weight /= total;
          for (int64_t d = 0; d < 4; ++d) y(0, i, h, d) += weight * v(0, j, h / 2, d);
        }
        for (int64_t d = 0; d < 4; ++d) along += g(0, i, h, d) * y(0, i, h, d);
        for (const auto& [j, weight] : weights) {
          double dscore = -along;
          for (int64_t d = 0; d < 4; ++d) dscore += g(0, i, h, d) * v(0, j, h / 2, d);
          dscore *= weight;
          ddelta(0, h / 2, j) += dscore;
          for (int64_t d = 0; d < 4; ++d) {
            dq(0, i, h, d) += dscore * k(0, j, h / 2, d) / 2;
            dk(0, j, h / 2, d) += dscore * q(0, i, h, d) / 2;
            dv(0, j, h / 2, d) += weight * g(0, i, h, d);
          }
        }
      }
    return all;
  }
};

// Around the tiles of the kernels, and one, some or all keys. Double runs the definition, float the tiles: a
// bias of up to exp(3) costs a weight some 20 roundings, and up to 262 rows add up.
TEST_F(DynamicMaskTest, KeptKeysAreAttendedToAndNoOthers) {
  for (const int64_t length : {1, 70, 131})
    for (const int64_t top_w : {int64_t{1}, int64_t{2}, int64_t{31}, int64_t{32}, int64_t{33}, int64_t{63},
                                int64_t{64}, int64_t{65}, length - 1, length, length + 1}) {
      if (top_w < 1) continue;
      Inputs single = inputs(length, DType::f32);
      for (int64_t i = 0; i < single.u.numel(); ++i)  // ties, and no others in float
        single.u.data<float>()[i] = std::round(16 * single.u.data<float>()[i]) / 16;
      const Inputs exact = converted(single, DType::f64);
      const Tensor dy = random(exact.q.shape(), 1, DType::f32);
      for (const bool exponential : {true, false})
        for (const auto& [dtype, limit] : {std::pair{DType::f64, 1e-12}, {DType::f32, 1e-4}}) {
          SCOPED_TRACE(std::to_string(top_w) + " of " + std::to_string(length) + ", " + to_string(dtype));
          const Inputs in = converted(exact, dtype);
          const Chosen chosen = choose(in.u, top_w, exponential);
          const Gradients actual = differentiate(in, chosen, converted(dy, dtype)),
                          loops = expected(exact, converted(chosen.bias, DType::f64), top_w,
                                           converted(dy, DType::f64));
          expect_near(converted(actual.y, DType::f64), loops.y, limit);
          expect_near(converted(actual.dv, DType::f64), loops.dv, limit);
          if (top_w == 1 || length == 1) continue;  // one key: nothing to learn but its value
          expect_near(converted(actual.dq, DType::f64), loops.dq, limit);
          expect_near(converted(actual.dk, DType::f64), loops.dk, limit);
          expect_near(converted(actual.dbias, DType::f64), loops.dbias, limit);
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
  expect_near(dense, expected(in, all.bias, kTokens, in.q).y, 1e-13);
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
  const auto [o, lse] = run_core(in, chosen.bias, chosen.end);
  const auto [o_shifted, lse_shifted] = run_core(in, shifted, chosen.end);
  expect_near(o_shifted, o, 1e-13);
  for (int64_t i = 0; i < lse.numel(); ++i)
    EXPECT_NEAR(lse_shifted.data<double>()[i] - lse.data<double>()[i], 2.5, 1e-13);
}

// Gradients of a softmax's input sum to zero, so those of the biases do: 20 rows of 4 keys in 2 query heads.
TEST_F(DynamicMaskTest, GradientsOfBiasesSumToZero) {
  for (const auto& [dtype, limit] : {std::pair{DType::f64, 1e-14}, {DType::f32, 1e-5}}) {
    const Inputs in = inputs(20, dtype);
    const Tensor dy = random(in.q.shape(), 1, dtype);
    const std::vector<double> values = to_doubles(differentiate(in, choose(in.u, 4), dy).dbias, *stream);
    // Gradients are differences of products <dy_i, v_j>, which large biases make as good as equal: the sum
    // shows the rounding of these.
    double largest_value = 0, terms = 0;
    for (const double value : to_doubles(in.v, *stream))
      largest_value = std::max(largest_value, std::abs(value));
    for (const double value : to_doubles(dy, *stream)) terms += std::abs(value) * largest_value;
    for (size_t g = 0; g < 2; ++g) {
      double sum = 0, magnitude = 0;
      for (size_t j = 0; j < 20; ++j) sum += values[g * 20 + j], magnitude += std::abs(values[g * 20 + j]);
      EXPECT_TRUE(std::abs(sum) <= limit * terms) << sum << " of " << terms;
      EXPECT_GT(magnitude, 0);
    }
  }
}

// A key worse than top_w earlier ones is not seen even by itself.
TEST_F(DynamicMaskTest, KeysThatAreNeverKeptHaveNoGradientAndChangeNothing) {
  const std::array<int64_t, 2> dead{6, 11};
  Inputs before = inputs(20);
  for (const int64_t j : dead) before.u.view<double, 3>("u")(0, j, 1) = -20;
  Inputs after = before;
  after.k = before.k.clone(*stream);
  after.v = before.v.clone(*stream);
  for (const int64_t j : dead)
    for (int64_t d = 0; d < 4; ++d) {
      after.k.view<double, 4>("k")(0, j, 1, d) += 1;
      after.v.view<double, 4>("v")(0, j, 1, d) += 1;
    }
  for (const DType dtype : {DType::f64, DType::f32}) {
    const Inputs in = converted(before, dtype);
    const Chosen chosen = choose(in.u, 4);
    const Gradients all = differentiate(in, chosen, random(in.q.shape(), 1, dtype));
    const Tensor dbias = converted(all.dbias, DType::f64), dk = converted(all.dk, DType::f64),
                 dv = converted(all.dv, DType::f64);
    for (const int64_t j : dead) {
      ASSERT_EQ((chosen.end.view<const int32_t, 3>("end")(0, 1, j)), j);
      EXPECT_EQ((dbias.view<const double, 3>("dbias")(0, 1, j)), 0);
      for (int64_t d = 0; d < 4; ++d) {
        EXPECT_EQ((dk.view<const double, 4>("dk")(0, j, 1, d)), 0);
        EXPECT_EQ((dv.view<const double, 4>("dv")(0, j, 1, d)), 0);
      }
    }
    expect_equal_bits(attend(converted(after, dtype), chosen), all.y);
  }
}

// Dropped keys lose their gradients through attention, but not their values' part in the choice of scores.
TEST_F(DynamicMaskTest, AnUntrainedRateLearnsAndHidesTheScoresFromTheGradient) {
  for (const char* mode : {"exp", "linear"}) {
    const auto layer = make("dynamic_mask", kDim, with(base, {{"bias_mode", mode}}));
    const Tensor x = random({2, 9, kDim});
    const auto gradient = gradients(*layer, x, random(x.shape()));
    expect_zero(gradient.at("dt/weight"));
    for (const double value : gradient.at("A").to_vector<double>(*stream)) EXPECT_NE(value, 0) << mode;
  }
}

// One key: the value of the best so far, whatever the query; the log-sum-exp is its score.
TEST_F(DynamicMaskTest, TheOnlyKeptKeyIsTheBestSoFar) {
  const Inputs in = inputs(30);
  const Chosen chosen = choose(in.u, 1);
  const Core core = run_core(in, chosen.bias, chosen.end);
  const auto out = core.o.view<const double, 4>("o"), q = in.q.view<const double, 4>("q"),
             k = in.k.view<const double, 4>("k"), v = in.v.view<const double, 4>("v");
  const auto u = in.u.view<const double, 3>("u"), delta = chosen.bias.view<const double, 3>("bias"),
             lse = core.log_sum_exp.view<const double, 3>("log_sum_exp");
  for (int64_t h = 0; h < 4; ++h) {
    int64_t best = 0;
    for (int64_t i = 0; i < 30; ++i) {
      if (u(0, i, h / 2) >= u(0, best, h / 2)) best = i;
      double score = delta(0, h / 2, best), magnitude = score;
      for (int64_t d = 0; d < 4; ++d) {
        const double term = q(0, i, h, d) * k(0, best, h / 2, d) / 2;
        score += term, magnitude += std::abs(term);
        EXPECT_NEAR(out(0, i, h, d), v(0, best, h / 2, d), 1e-14);
      }
      EXPECT_NEAR(lse(0, h, i), score, 1e-14 * magnitude);
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

// exp(u) overflows in float beyond 88 and vanishes below -104; log(1 + exp(u)) is u and 0 there, its slope 1
// and 0. A relative error of a is an error of 80 times as much in exp(a).
TEST_F(DynamicMaskTest, ProjectionsFarFromZeroDoNotOverflow) {
  const std::vector<double> projections{-1000, -200, 200, 1000};
  const double rate = 0.08;
  const Tensor ones = from_doubles({1, 1, 1, 1}, {1, 1, 4}, DType::f32, *stream);
  for (const bool exponential : {true, false}) {
    const Variable u = Variable::leaf(from_doubles(projections, {1, 4, 1}, DType::f32, *stream)),
                   rates = Variable::leaf(from_doubles({rate}, {1}, DType::f32, *stream));
    ctx.recording = true;
    const Variable bias = apply<DynamicMask>(ctx, {.top_w = 2, .exponential = exponential}, u, rates)[0];
    backward(ctx, std::span(&bias, 1), std::span(&ones, 1), MicroStep::last);
    ctx.recording = false;
    const std::vector<double> values = to_doubles(bias.value(), *stream), du = to_doubles(u.grad(), *stream);
    double drate = 0;
    for (size_t j = 0; j < projections.size(); ++j) {
      const double positive = std::max(projections[j], 0.0), a = rate * positive,
                   delta = exponential ? std::exp(a) : a, da = exponential ? delta : 1,
                   slope = projections[j] > 0 ? da * rate : 0;
      EXPECT_TRUE(std::abs(values[j] - delta) <= 2e-5 * delta) << values[j] << " for " << delta;
      EXPECT_TRUE(std::abs(du[j] - slope) <= 2e-5 * slope) << du[j] << " for " << slope;
      drate += da * positive;
    }
    const double actual = to_doubles(rates.grad(), *stream)[0];
    EXPECT_TRUE(std::abs(actual - drate) <= 2e-5 * drate) << actual << " for " << drate;
  }
}

// A key whose score is no number is the token's own at least, so it shows.
TEST_F(DynamicMaskTest, AScoreThatIsNoNumberReachesTheOutput) {
  for (const DType dtype : {DType::f64, DType::f32})
    for (const int64_t top_w : {1, 3, 50})
      for (const int64_t at : {0, 7, 19}) {
        SCOPED_TRACE(std::to_string(top_w) + " keys, token " + std::to_string(at));
        Inputs exact = inputs(20);
        exact.u.view<double, 3>("u")(0, at, 1) = std::numeric_limits<double>::quiet_NaN();
        const Inputs in = converted(exact, dtype);
        const Tensor y = converted(attend(in, choose(in.u, top_w)), DType::f64);
        for (const int64_t h : {2, 3}) EXPECT_TRUE(std::isnan(y.view<double, 4>("y")(0, at, h, 0)));
        EXPECT_FALSE(std::isnan(y.view<double, 4>("y")(0, 19, 0, 0)));
      }
}

// The ends of all keys say the same as sorting every prefix, with few ties, many, and nothing else; a
// negative rate turns the order of the scores round, not that of ties.
TEST_F(DynamicMaskTest, EndsAreThoseOfSortingEveryPrefix) {
  constexpr int64_t kTokens = 40;
  const std::vector<double> rates{0.7, -0.4};
  const Variable rate(Tensor::from<double>(rates, {2}, *stream));
  for (const double levels : {0, 1, 8}) {  // in a unit
    const Tensor u = random({2, kTokens, 2});
    for (int64_t i = 0; i < u.numel(); ++i)
      u.data<double>()[i] = std::round(levels * u.data<double>()[i]) / std::max(levels, 1.0);
    const auto score = u.view<const double, 3>("u");
    for (const int64_t top_w : {1, 2, 5, 39, 40, 60}) {
      SCOPED_TRACE(std::to_string(top_w) + " of keys in " + std::to_string(levels) + " levels");
      const auto [bias, ends] =
          apply<DynamicMask>(ctx, {.top_w = top_w, .exponential = true}, Variable(u), rate);
      const auto end = ends.value().view<const int32_t, 3>("end");
      for (int64_t b = 0; b < 2; ++b)
        for (int64_t g = 0; g < 2; ++g)
          for (int64_t i = 0; i < kTokens; ++i) {
            std::vector<int64_t> keys(static_cast<size_t>(i + 1));
            std::iota(keys.begin(), keys.end(), 0);
            std::sort(keys.begin(), keys.end(), [&](int64_t j, int64_t other) {
              const double x = rates[g] * score(b, j, g), y = rates[g] * score(b, other, g);
              return x > y || (x == y && j > other);
            });
            for (size_t rank = 0; rank < keys.size(); ++rank)
              EXPECT_EQ(i < end(b, g, keys[rank]), static_cast<int64_t>(rank) < top_w)
                  << "token " << i << " key " << keys[rank];
          }
    }
  }
}

// Rates of zero tie all keys, and of ties the newest stay.
TEST_F(DynamicMaskTest, WithoutARateTheLastKeysAreKept) {
  constexpr int64_t kTokens = 70;
  const Inputs in = inputs(kTokens);
  for (const bool exponential : {true, false})
    for (const int64_t top_w : {1, 5, 64, 69, 70, 71}) {
      const std::vector<int32_t> ends = choose(in.u, top_w, exponential, 0).end.to_vector<int32_t>(*stream);
      for (int64_t i = 0; i < 2 * kTokens; ++i) {
        const int64_t end = i % kTokens + top_w;
        EXPECT_EQ(ends[static_cast<size_t>(i)], end < kTokens ? end : kNeverDropped) << top_w;
      }
    }
}

// Of 11 tokens; as many keys as tokens or more are plain attention.
TEST_F(DynamicMaskTest, AnUntrainedLayerIsASlidingWindow) {
  for (const char* mode : {"exp", "linear"})
    for (const int64_t top_w : {3, 11, 50}) {
      const auto masked = make("dynamic_mask", kDim, with(base, {{"top_w", top_w}, {"bias_mode", mode}}));
      const auto window = make("softmax", kDim,
                               {{"num_heads", 4},
                                {"num_kv_heads", 2},
                                {"head_dim", 4},
                                {"window", top_w < 11 ? top_w : 0},
                                {"qk_norm", true}});
      copy_parameters(*window, *masked);
      const Tensor x = random({2, 11, kDim});
      expect_near(run(*masked, x), run(*window, x), 1e-14);
    }
}

TEST_F(DynamicMaskTest, AWindowIsRefused) {
  EXPECT_THROW(declare("dynamic_mask", kDim, with(base, {{"window", 4}})), ConfigError);
}

}  // namespace
}  // namespace headway::testing
