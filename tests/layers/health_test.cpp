// The figures that layers report about themselves.
#include "layers/attention/health.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "layers/model.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

class Collected final : public MetricSink {
 public:
  void add(std::string_view name, double value) override { values[std::string(name)] = value; }
  std::map<std::string, double> values;
};

class HealthTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12, kLength = 9;

  std::map<std::string, double> report(AttentionLayer& layer, const Tensor& x) {
    Collected collected;
    ctx.metrics = &collected;
    run(layer, x);
    ctx.metrics = nullptr;
    return collected.values;
  }
  std::unique_ptr<Model> make_model(DType dtype) {
    ModelConfig config;
    config.num_layers = 2;
    config.model_dim = kDim;
    config.attention->num_heads = 2;
    config.resolve(11, kLength);
    auto model = std::make_unique<Model>(config);
    model->materialize(dtype, 1, *stream);
    return model;
  }
};

// Of the softmax's weights, whatever becomes of them.
TEST_F(HealthTest, EqualWeightsHaveTheUniformSinkShare) {
  for (const char* kind : {"softmax", "gated", "affine"}) {
    auto layer = make(kind, kDim, {{"num_heads", 2}, {"num_kv_heads", 1}, {"head_dim", 6}});
    fill(*layer, "query/weight", 0);
    const auto values = report(*layer, random({2, kLength, kDim}));
    double uniform = 0;
    for (int64_t i = 1; i < kLength; ++i) uniform += 1.0 / static_cast<double>((i + 1) * (kLength - 1));
    EXPECT_NEAR(values.at("sink_share"), uniform, 1e-14) << kind;
    EXPECT_NEAR(values.at("sink_share_uniform"), uniform, 1e-14) << kind;
  }
}

// Row i of equal weights has log(i + 1) nats, log of its window where that is shorter.
TEST_F(HealthTest, EqualWeightsHaveTheLargestEntropy) {
  for (const int64_t window : {0, 4}) {
    auto layer =
        make("softmax", kDim, {{"num_heads", 2}, {"num_kv_heads", 1}, {"head_dim", 6}, {"window", window}});
    fill(*layer, "query/weight", 0);
    double largest = 0;
    for (int64_t i = 1; i < kLength; ++i) {
      const int64_t seen = window > 0 ? std::min(i + 1, window) : i + 1;
      largest += std::log(static_cast<double>(seen)) / static_cast<double>(kLength - 1);
    }
    EXPECT_NEAR(report(*layer, random({2, kLength, kDim})).at("entropy"), largest, 1e-13);
    set_random(*layer, "query/weight", 3);
    EXPECT_LT(report(*layer, random({2, kLength, kDim})).at("entropy"), largest);
  }
}

// Two keys of equal scores and a sink of the same: three equal shares. One kept key: nothing to choose.
TEST_F(HealthTest, EntropyCountsTheSinkAsAKeyAndDroppedKeysNot) {
  const nlohmann::json heads{{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 6}};
  auto sink = make("softmax", kDim, with(heads, {{"sink", true}}));
  fill(*sink, "query/weight", 0);
  EXPECT_NEAR(report(*sink, random({1, 2, kDim})).at("entropy"), std::log(3.0), 1e-13);
  auto one_key = make("dynamic_mask", kDim, with(heads, {{"top_w", 1}}));
  perturb(*one_key);
  EXPECT_NEAR(report(*one_key, random({1, kLength, kDim})).at("entropy"), 0, 1e-13);
}

// Two tokens: row 1 gives the first key 1 / (1 + exp(S_11 - S_10)), and a sink logit takes its part.
TEST_F(HealthTest, TheSinkShareIsTheFirstKeysWeight) {
  for (const bool sink : {false, true}) {
    auto layer =
        make("softmax", 2,
             {{"num_heads", 1}, {"num_kv_heads", 1}, {"head_dim", 2}, {"rope", false}, {"sink", sink}});
    for (const char* path : {"query/weight", "key/weight"}) set(*layer, path, {1, 0, 0, 1});
    if (sink) set(*layer, "sink", {0.3});
    const Tensor x = Tensor::from<double>(std::array{1.0, 2.0, 0.5, -1.0}, {1, 2, 2}, *stream);
    const double s10 = (0.5 - 2) / std::sqrt(2.0), s11 = 1.25 / std::sqrt(2.0);
    const double expected = std::exp(s10) / (std::exp(s10) + std::exp(s11) + (sink ? std::exp(0.3) : 0));
    EXPECT_NEAR(report(*layer, x).at("sink_share"), expected, 1e-14);
  }
}

// Equal weights of 70 rows: the first 64 give the first key 1/1 + ... + 1/64 = 4.74 of 64 rows, less than
// 0.3. Keys that only the first token's query direction meets take all of it.
TEST_F(HealthTest, TheSinkRateCountsHeadsThatLookAtTheFirstToken) {
  const nlohmann::json two_heads{{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 2}, {"rope", false}};
  auto layer = make("softmax", 4, two_heads);
  std::vector<double> tokens(70 * 4, 0.0);
  for (size_t i = 0; i < 70; ++i) tokens[i * 4] = 1, tokens[i * 4 + 1] = i == 0 ? 1 : 0;
  const Tensor x = Tensor::from<double>(tokens, {1, 70, 4}, *stream);
  fill(*layer, "query/weight", 0);
  fill(*layer, "key/weight", 0);
  EXPECT_EQ(report(*layer, x).at("sink_rate"), 0);
  // The first head: every query is (30, 0), the first key (1, 0), others 0.
  std::vector<double> query(16, 0.0), key(16, 0.0);
  query[0] = 30, key[1] = 1;
  set(*layer, "query/weight", query);
  set(*layer, "key/weight", key);
  EXPECT_EQ(report(*layer, x).at("sink_rate"), 0.5);
}

// More rows than are looked at: the largest log-sum-exps are those of the rows that hold the largest logit.
TEST_F(HealthTest, TheLargestLogitIsFoundAmongManyRows) {
  auto layer =
      make("softmax", kDim, {{"num_heads", 2}, {"num_kv_heads", 1}, {"head_dim", 6}, {"rope", false}});
  set_random(*layer, "query/weight", 3);
  set_random(*layer, "key/weight", 3);
  const int64_t T = 300;
  const Tensor x = random({1, T, kDim});
  const auto project = [&](const char* path, int64_t width) {
    const std::vector<double> weight = parameter(*layer, path).value.to_vector<double>(*stream);
    std::vector<double> y(static_cast<size_t>(T * width), 0.0);
    for (int64_t t = 0; t < T; ++t)
      for (int64_t c = 0; c < width; ++c)
        for (int64_t d = 0; d < kDim; ++d)
          y[t * width + c] += x.data<double>()[t * kDim + d] * weight[c * kDim + d];
    return y;
  };
  const std::vector<double> q = project("query/weight", 12), k = project("key/weight", 6);
  double largest = -INFINITY;
  for (int64_t h = 0; h < 2; ++h)
    for (int64_t i = 0; i < T; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        double dot = 0;
        for (int64_t d = 0; d < 6; ++d) dot += q[i * 12 + h * 6 + d] * k[j * 6 + d];
        largest = std::max(largest, dot / std::sqrt(6.0));
      }
  EXPECT_NEAR(report(*layer, x).at("max_logit"), largest, 1e-9 * largest);
}

TEST_F(HealthTest, MassiveActivationsAreCountedByTheirMedian) {
  std::vector<double> values(1000, 0.5);
  values[3] = 50.5, values[500] = -499, values[999] = -501;
  Collected collected;
  ctx.metrics = &collected;
  report_activations(ctx, Tensor::from<double>(values, {10, 100}, *stream));
  ctx.metrics = nullptr;
  EXPECT_EQ(collected.values.at("max_activation"), 501);
  EXPECT_EQ(collected.values.at("activations_above_100x"), 3);
  EXPECT_EQ(collected.values.at("activations_above_1000x"), 1);
}

TEST_F(HealthTest, AWindowHidesTheFirstKey) {
  auto layer = make("softmax", kDim, {{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 6}, {"window", 1}});
  EXPECT_EQ(report(*layer, random({1, kLength, kDim})).at("sink_share"), 0);
}

TEST_F(HealthTest, AnUntrainedGateIsHalfOpen) {
  auto layer =
      make("gated", kDim, {{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 6}, {"gate_init", "zero"}});
  const auto values = report(*layer, random({1, kLength, kDim}));
  for (const char* name : {"gate_min", "gate_mean", "gate_max"}) EXPECT_EQ(values.at(name), 0.5) << name;
  EXPECT_EQ(values.at("gate_below_tenth"), 0);
}

TEST_F(HealthTest, GatesBelowATenthAreCountedAsClosed) {
  auto layer =
      make("gated", kDim, {{"num_heads", 2}, {"head_dim", 6}, {"num_kv_heads", 2}, {"gate_input", "none"}});
  std::vector<double> logits(kDim, 0.0);
  for (size_t i = 0; i < 3; ++i) logits[i] = -3;
  logits[3] = 3;
  set(*layer, "gate/logit", logits);
  const auto values = report(*layer, random({1, kLength, kDim}));
  const double closed = 1 / (1 + std::exp(3.0)), open = 1 - closed;
  EXPECT_EQ(values.at("gate_below_tenth"), 0.25);
  EXPECT_NEAR(values.at("gate_min"), closed, 1e-15);
  EXPECT_NEAR(values.at("gate_max"), open, 1e-15);
  EXPECT_NEAR(values.at("gate_mean"), (3 * closed + open + 8 * 0.5) / 12, 1e-15);
}

TEST_F(HealthTest, AGateThatHeadsShareIsReportedAsTheirMean) {
  for (const char* heads : {"shared_mean_post", "shared_mean_pre"}) {
    auto layer = make("gated", kDim,
                      {{"num_heads", 2},
                       {"num_kv_heads", 2},
                       {"head_dim", 6},
                       {"gate_input", "none"},
                       {"gate_granularity", "headwise"},
                       {"gate_heads", heads}});
    set(*layer, "gate/logit", {-5, 5});  // one closed, one open
    const auto values = report(*layer, random({1, kLength, kDim}));
    for (const char* name : {"gate_min", "gate_mean", "gate_max"})
      EXPECT_NEAR(values.at(name), 0.5, 1e-15) << heads;
    EXPECT_EQ(values.at("gate_below_tenth"), 0) << heads;
  }
}

TEST_F(HealthTest, EveryTokenUsesTopKRoutedHeads) {
  auto layer =
      make("moh", kDim,
           {{"num_heads", 6}, {"num_kv_heads", 6}, {"head_dim", 2}, {"shared_heads", 2}, {"top_k", 2}});
  const auto values = report(*layer, random({2, kLength, kDim}));
  EXPECT_LE(values.at("load_min"), 0.5);  // 2 of 4 heads
  EXPECT_GE(values.at("load_max"), 0.5);
  EXPECT_TRUE(values.at("load_entropy") > 0.5 && values.at("load_entropy") <= 1 + 1e-12);
  // Of the rows that are computed.
  EXPECT_TRUE(values.at("sink_share") > 0 && values.at("sink_share") < 1);
  EXPECT_TRUE(values.at("entropy") > 0 && values.at("entropy") < std::log(kLength));
  EXPECT_TRUE(std::isfinite(values.at("max_logit")));
}

// Untrained, it is a window of top_w keys: all are kept, the last ones not to the end of their time.
TEST_F(HealthTest, AnUntrainedDynamicMaskKeepsEveryKeyForItsWindow) {
  auto layer =
      make("dynamic_mask", kDim, {{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 6}, {"top_w", 4}});
  const auto values = report(*layer, random({1, kLength, kDim}));
  EXPECT_EQ(values.at("kept_share"), 1);
  EXPECT_NEAR(values.at("kept_age"), (6 * 4 + 3 + 2 + 1) / 9.0, 1e-14);
}

TEST_F(HealthTest, AffineReportsTheRangeOfAlpha) {
  auto layer =
      make("affine", kDim, {{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 6}, {"affine_bias", true}});
  set(*layer, "affine/weight", std::vector<double>(2 * kDim, 0));
  set(*layer, "affine/bias", {-10, 0});  // alpha is 0 in one head and 0.5 in the other
  const auto values = report(*layer, random({1, kLength, kDim}));
  EXPECT_EQ(values.at("alpha_min"), 0);
  EXPECT_EQ(values.at("alpha_mean"), 0.25);
  EXPECT_EQ(values.at("alpha_max"), 0.5);
}

TEST_F(HealthTest, TheLargestActivationIsThatOfTheBlocksOutput) {
  const auto model = make_model(DType::f64);
  Collected collected;
  ctx.metrics = &collected;
  const Positions positions{.offset = 0, .count = kLength, .tables = &rope_tables};
  const Tensor y =
      model->blocks()[1]->forward(ctx, Variable(random({2, kLength, kDim})), positions, nullptr).value();
  double largest = 0;
  for (const double value : y.to_vector<double>(*stream)) largest = std::max(largest, std::abs(value));
  EXPECT_EQ(collected.values.at("attention/1/max_activation"), largest);
}

// Scores of zero scale every row by one half, and a running mean of one half shifts none.
TEST_F(HealthTest, AffineMayStartAsHalfOfSoftmaxAttention) {
  const nlohmann::json heads{{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 6}};
  auto affine = make("affine", kDim, with(heads, {{"affine_init", "zero"}, {"affine_ema_init", 0.5}}));
  auto softmax = make("softmax", kDim, heads);
  copy_parameters(*softmax, *affine);
  const Tensor x = random({2, kLength, kDim});
  const auto values = report(*affine, x);
  EXPECT_EQ(values.at("alpha_min"), 0.5);
  EXPECT_EQ(values.at("alpha_max"), 0.5);
  const Tensor half = run(*affine, x), whole = run(*softmax, x);
  for (int64_t i = 0; i < whole.numel(); ++i)
    EXPECT_NEAR(half.data<double>()[i], 0.5 * whole.data<double>()[i],
                1e-14 * std::abs(whole.data<double>()[i]) + 1e-15);
}

TEST_F(HealthTest, AModelNamesTheLayerAndReportsOncePerStep) {
  const auto model = make_model(DType::f32);
  const Tensor tokens = Tensor::from<int32_t>(std::vector<int32_t>(kLength, 3), {1, kLength}, *stream);
  for (const Recompute mode : {Recompute::off, Recompute::blocks}) {
    Collected collected;
    Context c{.stream = *stream, .rng = rng, .training = true, .recording = true, .metrics = &collected};
    backward(c, model->loss(c, tokens, tokens, 1, mode), MicroStep::last);
    EXPECT_EQ(collected.values.size(), 2u * 8);
    for (const char* name : {"sink_share", "sink_share_uniform", "sink_rate", "entropy", "max_logit",
                             "max_activation", "activations_above_100x", "activations_above_1000x"})
      EXPECT_TRUE(collected.values.contains(std::string("attention/1/") + name)) << name;
  }
}

}  // namespace
}  // namespace headway::testing
