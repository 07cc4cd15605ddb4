// Lightning attention: slopes, the norm over all heads, LRPE, counts.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/error.h"
#include "layers/attention/recurrent_state.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class LightningTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12;
  const Json plain{{"num_heads", 3}, {"num_kv_heads", 3}, {"head_dim", 4}};
  /// Of every head, from what is left of a state of ones after a token of zeros.
  std::vector<double> slopes_of(int64_t H, const char* decay, int64_t num_layers, int64_t layer_index) {
    const Json keys{{"num_heads", H}, {"num_kv_heads", H},       {"head_dim", 1},
                    {"decay", decay}, {"qk_activation", "none"}, {"gate", "none"}};
    const ModelShape shape{.model_dim = H,
                           .num_layers = num_layers,
                           .layer_index = layer_index,
                           .init_std = 1,
                           .output_init_std = 1};
    const auto layer = find_attention("lightning").make(*make_config("lightning", keys), shape);
    layer->materialize(DType::f64, seed, *stream);
    RecurrentState state;
    state.matrix = Variable(
        Tensor::from<double>(std::vector<double>(static_cast<size_t>(H), 1.0), {1, H, 1, 1}, *stream));
    run(*layer, Variable(Tensor::zeros({1, 1, H}, DType::f64, *stream)), &state, 0);
    std::vector<double> slopes = state.matrix.value().to_vector<double>(*stream);
    for (double& slope : slopes) slope = -std::log(slope);
    return slopes;
  }
  static void expect_slopes(const std::vector<double>& actual, const std::vector<double>& flat,
                            double factor) {
    ASSERT_EQ(actual.size(), flat.size());
    for (size_t h = 0; h < flat.size(); ++h) EXPECT_NEAR(actual[h], flat[h] * factor, 1e-14) << "head " << h;
  }
};

// As that code computes them: a geometric series from 2^(-8/H) for a power of two, else one for the next
// smaller power and every second slope of twice that.
TEST_F(LightningTest, SlopesOfThePublishedCode) {
  const auto series = [](int64_t P) {
    std::vector<double> slopes{std::pow(2.0, -8.0 / static_cast<double>(P))};
    while (static_cast<int64_t>(slopes.size()) < P) slopes.push_back(slopes.back() * slopes.front());
    return slopes;
  };
  std::map<int64_t, std::vector<double>> tables{
      {8, {0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625}},
      {16, series(16)},
      {64, series(64)},
      {3, {0.0625, 0.00390625, 0.25}},
      {1, {0.00390625}}};
  tables[12] = tables[8];
  for (const double slope :
       {0.70710678118654752, 0.35355339059327376, 0.17677669529663688, 0.088388347648318447})
    tables[12].push_back(slope);
  for (const auto& [H, flat] : tables) {
    SCOPED_TRACE("heads " + std::to_string(H));
    expect_slopes(slopes_of(H, "alibi_flat", 4, 1), flat, 1);
    expect_slopes(slopes_of(H, "alibi", 4, 0), flat, 1 + 1e-5);
    expect_slopes(slopes_of(H, "alibi", 4, 1), flat, 1 - 1.0 / 3 + 1e-5);
    expect_slopes(slopes_of(H, "alibi", 4, 3), flat, 1e-5);
    expect_slopes(slopes_of(H, "alibi", 1, 0), flat, 1 + 1e-5);
  }
}

TEST_F(LightningTest, SlopesOfThePrintedFormula) {
  const std::vector<double> slopes = slopes_of(8, "linear", 4, 1);
  for (size_t h = 0; h < 8; ++h) EXPECT_NEAR(slopes[h], static_cast<double>(h) * 0.75, 1e-13);
}

// The norm spans all heads of a token: without a gate, what enters the output projection has mean square one.
TEST_F(LightningTest, WhatEntersTheOutputProjectionHasMeanSquareOne) {
  const auto layer = make("lightning", kDim, with(plain, {{"gate", "none"}, {"norm_eps", 1e-30}}));
  std::vector<double> identity(static_cast<size_t>(kDim * kDim));
  for (int64_t i = 0; i < kDim; ++i) identity[i * kDim + i] = 1;
  set(*layer, "output/weight", identity);
  const Tensor y = run(*layer, random({2, 9, kDim}));
  for (int64_t row = 0; row < 18; ++row) {
    double squares = 0;
    for (int64_t c = 0; c < kDim; ++c) squares += std::pow(y.data<double>()[row * kDim + c], 2);
    EXPECT_NEAR(squares / kDim, 1, 1e-12);
  }
}

// Only distances count: the same tokens at later positions give the same output.
TEST_F(LightningTest, LrpeSeesDistancesAlone) {
  const auto layer = make("lightning", kDim, with(plain, {{"lrpe", "all"}}));
  const auto without = make("lightning", kDim, plain);
  set_random(*layer, "lrpe/theta");
  const Tensor x = random({1, 9, kDim});
  const Tensor here = run(*layer, x);
  expect_near(run(*layer, Variable(x), nullptr, 1000).value(), here, 1e-11);
  const auto theta = static_cast<size_t>(parameter(*layer, "lrpe/theta").shape.numel());
  set(*layer, "lrpe/theta", std::vector<double>(theta, 0));
  expect_near(run(*layer, x), run(*without, x), 1e-12);
}

TEST_F(LightningTest, LrpeIsOnInTheFirstLayerOrInAll) {
  const auto num_with = [&](const char* lrpe, int64_t layer_index) {
    const auto config = make_config("lightning", with(plain, {{"lrpe", lrpe}}));
    const ModelShape shape{
        .model_dim = kDim, .num_layers = 2, .layer_index = layer_index, .init_std = 1, .output_init_std = 1};
    return num_parameters(*find_attention("lightning").make(*config, shape));
  };
  const int64_t plain_count = 5 * kDim * kDim;
  EXPECT_EQ(num_with("none", 0), plain_count);
  EXPECT_EQ(num_with("first_layer", 0), plain_count + 12);
  EXPECT_EQ(num_with("first_layer", 1), plain_count);
  EXPECT_EQ(num_with("all", 1), plain_count + 12);
}

TEST_F(LightningTest, LrpeStartsAtTheFrequenciesOfAllChannels) {
  const auto layer = make("lightning", kDim, with(plain, {{"lrpe", "all"}}));
  const auto theta = parameter(*layer, "lrpe/theta").value.to_vector<double>(*stream);
  for (size_t m = 0; m < 12; ++m)
    EXPECT_NEAR(theta[m], std::pow(10000.0, -2.0 * static_cast<double>(m) / 12), 1e-14);
}

// TransNormerLLM 385M: 5 d^2 per attention layer (spec table C.6), states of 128 by 128 per head.
TEST_F(LightningTest, CountsOfAPublishedLayer) {
  const auto layer = declare("lightning", 1024, {{"num_heads", 8}, {"num_kv_heads", 8}, {"head_dim", 128}});
  EXPECT_EQ(num_parameters(*layer), 5 * 1024 * 1024);
  EXPECT_EQ(layer->cache_bytes_per_token(2), 0);
  EXPECT_EQ(layer->state_bytes(2), 8 * 128 * 128 * 4);
  // 98,304 operations per token and head forward at chunks of 64, 245,760 backward.
  const Cost cost = layer->cost(1, 1, 2);
  EXPECT_NEAR(cost.executed_flop.forward, 10.0 * 1024 * 1024 + 8 * 98304, 1e-3);
  EXPECT_NEAR(cost.executed_flop.backward, 20.0 * 1024 * 1024 + 8 * 245760, 1e-3);
}

TEST_F(LightningTest, RefusesKeysItDoesNotHave) {
  for (const Json& more : {Json{{"rope", true}}, Json{{"num_kv_heads", 1}}, Json{{"qk_norm", true}},
                           Json{{"bias", true}}, Json{{"window", 4}}})
    EXPECT_THROW(declare("lightning", kDim, with(plain, more)), ConfigError) << more.dump();
}

}  // namespace
}  // namespace headway::testing
