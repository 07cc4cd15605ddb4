// The operations of Hedgehog against central differences in float64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "autograd/apply.h"
#include "autograd/engine.h"
#include "autograd/gradcheck.h"
#include "autograd/ops/head_linear.h"
#include "autograd/ops/hedgehog_map.h"
#include "autograd/ops/linear_attention.h"
#include "autograd/ops/repeat_heads.h"
#include "core/backend.h"
#include "core/error.h"
#include "tests/support/seed.h"

namespace headway {
namespace {

class HedgehogOpsTest : public testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  const uint32_t seed = fresh_seed();
  Rng rng{seed};
  Context ctx{.stream = *stream, .rng = rng};

  Variable leaf(const Shape& shape) {
    return Variable::leaf(
        Tensor::from<double>(random_values<double>(shape.numel(), seed, next_++), shape, *stream));
  }
  void expect_gradients(const std::vector<Variable>& leaves, const CheckedFunction& function, double limit) {
    const GradCheck check = gradcheck(ctx, function, leaves);
    EXPECT_TRUE(check.error <= limit) << "error " << check.error << ": " << check.worst;
  }

 private:
  uint32_t next_ = 0;
  testing::ScopedTrace trace_{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed)};
};

TEST_F(HedgehogOpsTest, HedgehogMap) {
  // Channels of a token differ by 0.03 or more: expmax has a kink where another one becomes the largest.
  std::vector<double> values = random_values<double>(60, seed, 0);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = std::round(4 * values[i]) / 4 + 0.03 * static_cast<double>(i % 5);
  const Variable u = Variable::leaf(Tensor::from<double>(values, {2, 3, 2, 5}, *stream));
  for (const HedgehogFeatures features :
       {HedgehogFeatures::softmax, HedgehogFeatures::exp, HedgehogFeatures::expmax, HedgehogFeatures::joint})
    expect_gradients(
        {u},
        [&](Context& c) {
          return std::vector{apply<headway::HedgehogMap>(c, {.features = features}, u, Tensor())};
        },
        1e-8);
}

TEST_F(HedgehogOpsTest, RepeatHeads) {
  const Variable x = leaf({2, 3, 2, 5});
  const Tensor y = repeat_heads(ctx, x, 6).value();
  ASSERT_EQ(y.shape(), Shape({2, 3, 6, 5}));
  const auto from = x.value().view<const double, 4>("x"), to = y.view<const double, 4>("y");
  for (int64_t t = 0; t < 3; ++t)
    for (int64_t h = 0; h < 6; ++h)
      for (int64_t d = 0; d < 5; ++d) EXPECT_EQ(to(1, t, h, d), from(1, t, h / 3, d));
  expect_gradients(
      {x}, [&](Context& c) { return std::vector{repeat_heads(c, x, 6)}; }, 1e-9);
}

TEST_F(HedgehogOpsTest, HedgehogFeatureMap) {
  const Variable x = leaf({2, 3, 2, 5}), weight = leaf({2, 4, 5}), bias = leaf({2, 4});
  for (const HedgehogFeatures features : {HedgehogFeatures::softmax, HedgehogFeatures::joint})
    for (const bool biased : {false, true}) {
      const Variable b = biased ? bias : Variable();
      std::vector<Variable> leaves{x, weight};
      if (biased) leaves.push_back(b);
      expect_gradients(
          leaves,
          [&](Context& c) {
            return std::vector{apply<headway::HedgehogFeatureMap>(c, {.features = features}, x, weight, b)};
          },
          1e-8);
    }
}

TEST_F(HedgehogOpsTest, HeadLinear) {
  const Variable x = leaf({2, 3, 2, 5}), weight = leaf({2, 4, 5}), bias = leaf({2, 4});
  for (const bool biased : {false, true}) {
    const Variable b = biased ? bias : Variable();
    std::vector<Variable> leaves{x, weight};
    if (biased) leaves.push_back(b);
    expect_gradients(
        leaves, [&](Context& c) { return std::vector{apply<headway::HeadLinear>(c, {}, x, weight, b)}; },
        1e-9);
  }
  const Tensor y = apply<headway::HeadLinear>(ctx, {}, x, weight, bias).value();
  for (int64_t row = 0; row < 12; ++row)
    for (int64_t o = 0; o < 4; ++o) {
      const int64_t h = row % 2;
      double expected = bias.value().data<double>()[h * 4 + o];
      for (int64_t i = 0; i < 5; ++i)
        expected +=
            x.value().data<double>()[row * 5 + i] * weight.value().data<double>()[(h * 4 + o) * 5 + i];
      EXPECT_NEAR(y.data<double>()[row * 4 + o], expected, 1e-13);
    }
  EXPECT_THROW(apply<headway::HeadLinear>(ctx, {}, x, leaf({3, 4, 5}), Variable()), ShapeError);
}

/// Attention with the exp map whose exponents may be large.
class HedgehogExpTest : public HedgehogOpsTest {
 protected:
  static constexpr int64_t B = 2, T = 70, H = 2, Df = 5, V = 3;
  static constexpr double kEps = 0.3;

  template <class S>
  Variable leaf_of(const std::vector<double>& values, const Shape& shape) {
    return Variable::leaf(Tensor::from<S>(std::vector<S>(values.begin(), values.end()), shape, *stream));
  }
  /// Rows whose first entry stands out, by up to scale.
  std::vector<double> rows(double scale, uint32_t stream_number) {
    auto values = random_values<double>(B * T * H * Df, seed, stream_number);
    const auto size = random_values<double>(B * T * H, seed, stream_number + 1);
    for (size_t row = 0; row < size.size(); ++row)
      values[row * Df] = scale * (0.6 + 0.4 * std::min(1.0, std::abs(size[row])));
    return values;
  }
  static LinearInputs inputs(Context& c, const Variable& query, const Variable& key, const Variable& value,
                             const Tensor& before, Tensor* after) {
    const HedgehogShifts shifts = hedgehog_shifts(c, query.value(), key.value(), before, kEps);
    if (after) *after = shifts.after;
    const HedgehogMap::Config map{.features = HedgehogFeatures::exp};
    return {.q = apply<headway::HedgehogMap>(c, map, query, shifts.query),
            .k = apply<headway::HedgehogMap>(c, map, key, shifts.key),
            .v = value,
            .log_decay = shifts.log_decay,
            .token_eps = shifts.token_eps};
  }
  static Variable attend(Context& c, const Variable& query, const Variable& key, const Variable& value) {
    return linear_attention(c, inputs(c, query, key, value, Tensor(), nullptr), {.normalise = true})[0];
  }
  /// By logarithms of the weights.
  std::vector<double> definition(const std::vector<double>& q, const std::vector<double>& k,
                                 const std::vector<double>& v) {
    std::vector<double> o(static_cast<size_t>(B * T * H * V));
    for (int64_t b = 0; b < B; ++b)
      for (int64_t h = 0; h < H; ++h)
        for (int64_t t = 0; t < T; ++t) {
          const auto row = [&](int64_t token) { return (b * T + token) * H + h; };
          std::vector<double> logarithms;
          for (int64_t j = 0; j <= t; ++j) {
            double largest = 0, sum = 0;
            for (int64_t f = 0; f < Df; ++f)
              largest = std::max(largest, std::abs(q[row(t) * Df + f] + k[row(j) * Df + f]));
            for (int64_t f = 0; f < Df; ++f)
              for (const double sign : {-1, 1})
                sum += std::exp(sign * (q[row(t) * Df + f] + k[row(j) * Df + f]) - largest);
            logarithms.push_back(largest + std::log(sum));
          }
          const double top = *std::max_element(logarithms.begin(), logarithms.end());
          double total = kEps * std::exp(-top);
          for (const double l : logarithms) total += std::exp(l - top);
          for (int64_t j = 0; j <= t; ++j)
            for (int64_t i = 0; i < V; ++i)
              o[row(t) * V + i] += std::exp(logarithms[j] - top) / total * v[row(j) * V + i];
        }
    return o;
  }
  template <class S>
  void expect_definition(double scale, double limit) {
    SCOPED_TRACE("scale " + std::to_string(scale));
    auto q = rows(scale, 100), k = rows(scale, 200), v = random_values<double>(B * T * H * V, seed, 300);
    for (auto* values : {&q, &k, &v})
      for (double& value : *values) value = static_cast<double>(static_cast<S>(value));
    const Tensor o =
        attend(ctx, leaf_of<S>(q, {B, T, H, Df}), leaf_of<S>(k, {B, T, H, Df}), leaf_of<S>(v, {B, T, H, V}))
            .value();
    const std::vector<double> expected = definition(q, k, v);
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_TRUE(std::abs(static_cast<double>(o.data<S>()[i]) - expected[i]) <= limit) << i;
  }
};

TEST_F(HedgehogExpTest, LargeExponentsKeepTheDefinition) {
  for (const double scale : {1.0, 250.0, 600.0}) expect_definition<double>(scale, 1e-11);
  // A weight's relative error is that of its exponent: 300 times some 6e-8, in numerator and denominator.
  for (const double scale : {1.0, 15.0, 60.0, 300.0}) expect_definition<float>(scale, 1e-6 * (1 + scale));
}

TEST_F(HedgehogExpTest, ShiftsAreConstantsForTheGradient) {
  for (const double scale : {3.0, 400.0}) {
    const Variable q = leaf_of<double>(rows(scale, 100), {B, T, H, Df}),
                   k = leaf_of<double>(rows(scale, 200), {B, T, H, Df}), v = leaf({B, T, H, V});
    const GradCheck check = gradcheck(ctx, [&](Context& c) { return std::vector{attend(c, q, k, v)}; },
                                      std::vector{q, k, v}, {.elements_per_leaf = 40});
    // Exponents of hundreds leave 1e-13 of them as noise in every weight.
    EXPECT_TRUE(check.error <= 1e-6) << "error " << check.error << ": " << check.worst;
  }
}

TEST_F(HedgehogExpTest, AnyExponentsGiveFiniteNumbersInFloat) {
  ctx.recording = true;
  for (const double scale : {100.0, 300.0}) {
    const auto any = [&](uint32_t number, int64_t width) {
      auto values = random_values<double>(B * T * H * width, seed, number, scale / 3);
      for (double& value : values) value = std::clamp(value, -scale, scale);
      return values;
    };
    const Variable q = leaf_of<float>(any(1, Df), {B, T, H, Df}),
                   k = leaf_of<float>(any(2, Df), {B, T, H, Df}),
                   v = leaf_of<float>(random_values<double>(B * T * H * V, seed, 3), {B, T, H, V});
    const Variable o = attend(ctx, q, k, v);
    const Tensor dy =
        Tensor::from<float>(random_values<float>(B * T * H * V, seed, 4), {B, T, H, V}, *stream);
    backward(ctx, std::span(&o, 1), std::span(&dy, 1), MicroStep::last);
    for (const Tensor& tensor : {o.value(), q.grad(), k.grad(), v.grad()})
      for (const float value : tensor.to_vector<float>(*stream)) ASSERT_TRUE(std::isfinite(value));
    const HedgehogMap::Config map{.features = HedgehogFeatures::exp};
    const Tensor plain = apply<headway::HedgehogMap>(ctx, map, Variable(k.value()), Tensor()).value();
    EXPECT_TRUE(
        std::ranges::any_of(plain.to_vector<float>(*stream), [](float value) { return std::isinf(value); }));
  }
}

TEST_F(HedgehogExpTest, SegmentsCarryTheShiftedState) {
  for (const double scale : {3.0, 600.0}) {
    const Variable q = leaf_of<double>(rows(scale, 100), {B, T, H, Df}),
                   k = leaf_of<double>(rows(scale, 200), {B, T, H, Df}), v = leaf({B, T, H, V});
    const Tensor whole = attend(ctx, q, k, v).value();
    Tensor shift;
    Variable state;
    for (int64_t begin = 0; begin < T;) {
      const int64_t end = std::min(T, begin + (begin % 2 == 0 ? 1 : 30));
      const auto part = [&](const Tensor& x) { return x.slice(0, 0, 1).slice(1, begin, end); };
      LinearInputs in = inputs(ctx, Variable(part(q.value())), Variable(part(k.value())),
                               Variable(part(v.value())), shift, &shift);
      in.state = state;
      const auto [o, next] = linear_attention(ctx, in, {.normalise = true});
      state = next;
      const Tensor expected = part(whole);
      for (int64_t i = 0; i < expected.numel(); ++i)
        ASSERT_NEAR(o.value().data<double>()[i], expected.data<double>()[i], 1e-11);
      begin = end;
    }
  }
}

}  // namespace
}  // namespace headway
