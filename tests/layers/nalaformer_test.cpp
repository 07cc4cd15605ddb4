// NaLaFormer: golden cases, the identities of its specification, decoding, gradients through the state.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class NalaformerTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12;
  const Json plain{{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 6}};
  /// A layer that ends with the attention itself: no gate, no norm to speak of, no output projection. Keys
  /// are queries, so that a token has weight at least for itself where signs must agree.
  std::unique_ptr<AttentionLayer> bare(const Json& more) {
    Json keys = with(plain, {{"short_conv", 0}, {"gate", "none"}, {"out_norm", "rms_head"}, {"norm_eps", 0}});
    auto layer = make("nalaformer", kDim, with(keys, more));
    std::vector<double> identity(static_cast<size_t>(kDim * kDim));
    for (int64_t i = 0; i < kDim; ++i) identity[i * kDim + i] = 1;
    set(*layer, "output/weight", identity);
    set(*layer, "key/weight", parameter(*layer, "query/weight").value.to_vector<double>(*stream));
    return layer;
  }
};

// Normalised weights: scaling every key cancels, and so does the norm of a query once its power is frozen.
TEST_F(NalaformerTest, ScalesCancelWhereTheyShould) {
  for (const char* map : {"cosine", "relu_split"}) {
    const Json keys{{"feature_map", map}, {"normaliser_eps", 0}, {"qnorm_scale", 1e-6}};
    const auto layer = bare(keys);
    const Tensor x = random({1, 9, kDim});
    const Tensor expected = run(*layer, x);
    const auto scale = [&](const char* name) {
      std::vector<double> weight = parameter(*layer, name).value.to_vector<double>(*stream);
      for (double& value : weight) value *= 3;
      set(*layer, name, weight);
    };
    scale("key/weight");
    expect_near(run(*layer, x), expected, 1e-10);
    scale("query/weight");
    // tanh(1e-6 r) moves the power by some 1e-5.
    expect_near(run(*layer, x), expected, 1e-3);
  }
}

// So a gradient has no part along the keys.
TEST_F(NalaformerTest, GradientsOfKeysAreOrthogonalToThem) {
  for (const char* map : {"cosine", "relu_split"}) {
    const auto layer = bare({{"feature_map", map}, {"normaliser_eps", 0}});
    ctx.recording = true;
    const Variable y = run(*layer, Variable(random({2, 9, kDim})));
    const Tensor dy = random(y.shape());
    backward(ctx, std::span(&y, 1), std::span(&dy, 1), MicroStep::last);
    ctx.recording = false;
    const auto weight = parameter(*layer, "key/weight").value.to_vector<double>(*stream),
               gradient = parameter(*layer, "key/weight").gradient->grad.to_vector<double>(*stream);
    double along = 0, terms = 0;
    for (size_t i = 0; i < weight.size(); ++i)
      along += weight[i] * gradient[i], terms += std::abs(weight[i] * gradient[i]);
    EXPECT_TRUE(std::abs(along) <= 1e-9 * terms) << map << ": " << along << " of " << terms;
  }
}

// Power one and no phase: linear attention with the absolute values of queries and keys.
TEST_F(NalaformerTest, PowerOneWithoutPhaseIsLinearAttentionOfAbsoluteValues) {
  const auto layer =
      bare({{"phase", "none"}, {"lambda", 1}, {"tau", 1}, {"qnorm_scale", 1e-6}, {"normaliser_eps", 0}});
  const int64_t T = 9, Dh = 6;
  const Tensor x = random({1, T, kDim}), expected = Tensor::zeros(x.shape(), DType::f64, *stream);
  const auto project = [&](const char* name) {
    const auto weight = parameter(*layer, name).value.to_vector<double>(*stream);
    std::vector<double> rows(static_cast<size_t>(T * kDim));
    for (int64_t t = 0; t < T; ++t)
      for (int64_t c = 0; c < kDim; ++c)
        for (int64_t i = 0; i < kDim; ++i)
          rows[t * kDim + c] += weight[c * kDim + i] * x.data<double>()[t * kDim + i];
    return rows;
  };
  const auto q = project("query/weight"), k = project("key/weight"), v = project("value/weight");
  for (int64_t t = 0; t < T; ++t)
    for (int64_t h = 0; h < 2; ++h) {
      std::vector<double> o(Dh);
      for (int64_t j = 0; j <= t; ++j) {
        double score = 0;
        for (int64_t d = h * Dh; d < (h + 1) * Dh; ++d) score += std::abs(q[t * kDim + d] * k[j * kDim + d]);
        for (int64_t d = 0; d < Dh; ++d) o[d] += score * v[j * kDim + h * Dh + d];
      }
      double squares = 0;  // of the norm, in which the sum of the weights cancels
      for (const double value : o) squares += value * value / static_cast<double>(Dh);
      for (int64_t d = 0; d < Dh; ++d)
        expected.data<double>()[t * kDim + h * Dh + d] = o[d] / std::sqrt(squares);
    }
  // tanh(1e-6 r) moves the power by some 1e-5.
  expect_near(run(*layer, x), expected, 1e-3);
}

// The norm of a query acts where its power is free.
TEST_F(NalaformerTest, TheNormOfAQueryMatters) {
  const auto layer = bare({{"qnorm_scale", 0.4}});
  const Tensor x = random({1, 9, kDim});
  const Tensor before = run(*layer, x);
  std::vector<double> weight = parameter(*layer, "query/weight").value.to_vector<double>(*stream);
  for (double& value : weight) value *= 3;
  set(*layer, "query/weight", weight);
  const Tensor after = run(*layer, x);
  double largest = 0;
  for (int64_t i = 0; i < after.numel(); ++i)
    largest = std::max(largest, std::abs(after.data<double>()[i] - before.data<double>()[i]));
  EXPECT_GE(largest, 1e-3);
}

// Weights of a row sum to n / (n + eps): equal values come out as themselves, which the norm then makes unit.
TEST_F(NalaformerTest, EqualValuesAreTheirOwnMean) {
  const auto layer =
      make("nalaformer", kDim, with(plain, {{"short_conv", 0}, {"gate", "none"}, {"normaliser_eps", 0}}));
  const Tensor x = random({1, 6, kDim});
  // Values of one token are the same for all tokens once that token repeats.
  for (int64_t t = 1; t < 6; ++t) std::copy_n(x.data<double>(), kDim, x.data<double>() + t * kDim);
  const Tensor y = run(*layer, x);
  for (int64_t t = 1; t < 6; ++t)
    for (int64_t d = 0; d < kDim; ++d)
      EXPECT_NEAR(y.data<double>()[t * kDim + d], y.data<double>()[d], 1e-11);
}

TEST_F(NalaformerTest, RotationsDependOnDistancesAlone) {
  const auto layer = make("nalaformer", kDim, with(plain, {{"rope", true}}));
  const Tensor x = random({1, 9, kDim});
  const Tensor expected = run(*layer, x);
  expect_near(run(*layer, Variable(x), nullptr, 7).value(), expected, 1e-10);
}

TEST_F(NalaformerTest, CountsOfALayer) {
  const int64_t E = 512, H = 8, Dh = 64;
  const auto layer = declare("nalaformer", E, {{"num_heads", H}, {"num_kv_heads", H}, {"head_dim", Dh}});
  EXPECT_EQ(num_parameters(*layer), 5 * E * E + 3 * 4 * E + 2 * E);
  EXPECT_EQ(layer->cache_bytes_per_token(2), 0);
  EXPECT_EQ(layer->state_bytes(2), H * 33280 + 3 * 3 * E * 2);
  // The table of the specification: products of a token and head at Dh = 64 in chunks of 64.
  const Cost cost = layer->cost(1, 1, 2);
  const double projections = 10.0 * E * E, convolutions = 2.0 * 3 * 4 * E;
  EXPECT_NEAR(cost.executed_flop.forward, projections + convolutions + 57344.0 * H, 1e-3);
  EXPECT_NEAR(cost.executed_flop.backward, 2 * projections + 2 * convolutions + 147456.0 * H, 1e-3);
}

TEST_F(NalaformerTest, RefusesWhatItDoesNotHave) {
  for (const Json& more :
       {Json{{"num_kv_heads", 1}}, Json{{"qk_norm", true}}, Json{{"bias", true}}, Json{{"window", 8}}})
    EXPECT_THROW(declare("nalaformer", kDim, with(plain, more)), ConfigError) << more.dump();
}

}  // namespace
}  // namespace headway::testing
