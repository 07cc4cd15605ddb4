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
  /// A layer that ends with the attention itself: no gate, no norm to speak of, no output projection.
  std::unique_ptr<AttentionLayer> bare(const Json& more) {
    Json keys = with(plain, {{"short_conv", 0}, {"gate", "none"}, {"out_norm", "rms_head"}, {"norm_eps", 0}});
    auto layer = make("nalaformer", kDim, with(keys, more));
    std::vector<double> identity(static_cast<size_t>(kDim * kDim));
    for (int64_t i = 0; i < kDim; ++i) identity[i * kDim + i] = 1;
    set(*layer, "output/weight", identity);
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
  EXPECT_NEAR(cost.forward_flop, projections + convolutions + 57344.0 * H, 1e-3);
  EXPECT_NEAR(cost.backward_flop, 2 * projections + 2 * convolutions + 147456.0 * H, 1e-3);
}

TEST_F(NalaformerTest, RefusesWhatItDoesNotHave) {
  for (const Json& more :
       {Json{{"num_kv_heads", 1}}, Json{{"qk_norm", true}}, Json{{"bias", true}}, Json{{"window", 8}}})
    EXPECT_THROW(declare("nalaformer", kDim, with(plain, more)), ConfigError) << more.dump();
}

}  // namespace
}  // namespace headway::testing
