#include <gtest/gtest.h>

#include "core/error.h"
#include "layers/model.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class GatedTest : public LayerTest {
 protected:
  static constexpr int64_t kHeads = 4, kHeadDim = 4, kDim = kHeads * kHeadDim, kLength = 9;
  const Json base{{"num_heads", kHeads}, {"num_kv_heads", 2}, {"head_dim", kHeadDim}};

  static std::vector<Json> all_places() {
    std::vector<Json> places{{{"gate_position", "g5"}}};
    for (const char* position : {"g1", "g2", "g3", "g4"})
      for (const char* granularity : {"elementwise", "headwise"})
        places.push_back({{"gate_position", position}, {"gate_granularity", granularity}});
    return places;
  }
  /// The softmax layer with a gate whose every score is `score`.
  std::unique_ptr<AttentionLayer> gated(AttentionLayer& softmax, const Json& keys, double score,
                                        DType dtype = DType::f64) {
    auto layer = make("gated", kDim, with(with(base, keys), {{"gate_bias", true}}), dtype);
    copy_parameters(softmax, *layer);
    fill(*layer, "gate/weight", 0);
    fill(*layer, "gate/bias", score);
    return layer;
  }
};

// Scores at which the logistic function is exactly one in that precision.
TEST_F(GatedTest, AnOpenGateEqualsSoftmaxBitForBit) {
  for (const auto& [dtype, score] : {std::pair{DType::f64, 40.0}, std::pair{DType::f32, 20.0}}) {
    rope_tables = {};  // are of one dtype
    const auto softmax = make("softmax", kDim, base, dtype);
    const Tensor x = random({2, kLength, kDim}, 1, dtype), dy = random(x.shape(), 1, dtype);
    const Tensor y = run(*softmax, x);
    const auto expected = gradients(*softmax, x, dy);
    for (const Json& place : all_places())
      for (const char* heads : {"specific", "shared_mean_post", "shared_mean_pre"}) {
        const Json keys = with(place, {{"gate_heads", heads}});
        SCOPED_TRACE(keys.dump() + " " + to_string(dtype));
        const auto layer = gated(*softmax, keys, score, dtype);
        expect_equal_bits(run(*layer, x), y);
        const auto actual = gradients(*layer, x, dy);
        for (const auto& [path, gradient] : expected) expect_equal_bits(actual.at(path), gradient);
        expect_zero(actual.at("gate/weight"));
        expect_zero(actual.at("gate/bias"));
      }
  }
}

// A factor of two changes no other bit of any sum.
TEST_F(GatedTest, ZeroWeightsHalveTheOutputAndEveryGradient) {
  const auto softmax = make("softmax", kDim, base);
  expose_heads(*softmax);
  const Tensor x = random({2, kLength, kDim}), dy = random(x.shape()), y = run(*softmax, x);
  const auto expected = gradients(*softmax, x, dy);
  for (const char* granularity : {"elementwise", "headwise"}) {
    const auto layer = gated(*softmax, {{"gate_granularity", granularity}}, 0);
    expect_multiple(run(*layer, x), 0.5, y);
    const auto actual = gradients(*layer, x, dy);
    for (const auto& [path, gradient] : expected) expect_multiple(actual.at(path), 0.5, gradient);
    if (granularity == std::string("headwise")) continue;
    const Tensor dz = y.clone(*stream);  // dO Y / 4
    for (int64_t i = 0; i < dz.numel(); ++i) dz.data<double>()[i] *= dy.data<double>()[i] / 4;
    expect_near(actual.at("gate/weight"), weight_gradient(dz, x), 1e-12);
  }
}

TEST_F(GatedTest, AModelOfHalfOpenGatesAndDoubledOutputsIsTheSoftmaxModel) {
  const auto model_of = [&](const char* kind) {
    ModelConfig config;
    config.num_layers = 2;
    config.model_dim = 12;
    JsonFields fields({{"kind", kind}, {"num_heads", 2}, {"num_kv_heads", 1}});
    config.attention.describe(fields);
    config.resolve(11, kLength);
    auto model = std::make_unique<Model>(config);
    model->materialize(DType::f64, seed, *stream);
    return model;
  };
  const auto softmax = model_of("softmax"), gated = model_of("gated");
  std::map<std::string, Tensor> values;
  softmax->visit("", [&](const std::string& path, Parameter& p) { values[path] = p.value; });
  gated->visit("", [&](const std::string& path, Parameter& p) {
    const bool is_gate = path.ends_with("gate/weight") && path.find("attention") != std::string::npos;
    const double factor = is_gate ? 0 : path.ends_with("attention/output/weight") ? 2 : 1;
    const Tensor& from = is_gate ? p.value : values.at(path);
    for (int64_t i = 0; i < from.numel(); ++i) p.value.data<double>()[i] = factor * from.data<double>()[i];
  });
  std::vector<int32_t> ids(2 * kLength);
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>(random_bits({seed, 0, 99, 0}, i) % 11);
  const Tensor tokens = Tensor::from<int32_t>(ids, {2, kLength}, *stream);
  expect_equal_bits(gated->hidden(ctx, tokens, Recompute::off).value(),
                    softmax->hidden(ctx, tokens, Recompute::off).value());
  EXPECT_EQ(gated->loss(ctx, tokens, tokens, 1, Recompute::off).value().to_vector<double>(*stream),
            softmax->loss(ctx, tokens, tokens, 1, Recompute::off).value().to_vector<double>(*stream));
}

// Scores far below where the exponential function overflows.
TEST_F(GatedTest, AClosedGateIsZeroAndSoIsEveryGradient) {
  for (const auto& [dtype, score] : {std::pair{DType::f64, -1000.0}, std::pair{DType::f32, -100.0}}) {
    rope_tables = {};  // are of one dtype
    const auto softmax = make("softmax", kDim, base, dtype);
    const Tensor x = random({2, kLength, kDim}, 1, dtype), dy = random(x.shape(), 1, dtype);
    for (const Json& place : all_places())
      for (const char* activation : {"sigmoid", "silu"}) {
        if (place["gate_position"] == "g3" || place["gate_position"] == "g4") continue;
        SCOPED_TRACE(place.dump() + activation + " " + to_string(dtype));
        const auto layer = gated(*softmax, with(place, {{"gate_act", activation}}), score, dtype);
        expect_zero(run(*layer, x));
        for (const auto& [path, gradient] : gradients(*layer, x, dy)) expect_zero(gradient);
      }
  }
}

TEST_F(GatedTest, WithClosedQueriesOrKeysEveryVisibleTokenWeighsTheSame) {
  const auto softmax = make("softmax", kDim, base);
  const Tensor x = random({2, kLength, kDim}), dy = random(x.shape());
  for (const Json& place : all_places()) {
    if (place["gate_position"] != "g3" && place["gate_position"] != "g4") continue;
    SCOPED_TRACE(place.dump());
    const auto layer = gated(*softmax, place, -1000);
    const auto uniform = make("softmax", kDim, base);
    copy_parameters(*softmax, *uniform);
    fill(*uniform, place["gate_position"] == "g3" ? "key/weight" : "query/weight", 0);
    expect_equal_bits(run(*layer, x), run(*uniform, x));
    const auto actual = gradients(*layer, x, dy), expected = gradients(*uniform, x, dy);
    for (const char* path : {"value/weight", "output/weight"})
      expect_near(actual.at(path), expected.at(path), 1e-14);
    for (const char* path : {"query/weight", "key/weight", "gate/weight", "gate/bias"})
      expect_zero(actual.at(path));
  }
}

TEST_F(GatedTest, AGatePerHeadIsOnePerChannelWithEqualScores) {
  const auto softmax = make("softmax", kDim, base);
  for (const char* position : {"g1", "g2", "g3", "g4"}) {
    SCOPED_TRACE(position);
    const Json keys = with(base, {{"gate_position", position}});
    const auto headwise = make("gated", kDim, with(keys, {{"gate_granularity", "headwise"}}));
    const auto elementwise = make("gated", kDim, keys);
    const std::vector<double> rows = parameter(*headwise, "gate/weight").value.to_vector<double>(*stream);
    std::vector<double> repeated;
    for (auto row = rows.begin(); row != rows.end(); row += kDim)
      for (int64_t d = 0; d < kHeadDim; ++d) repeated.insert(repeated.end(), row, row + kDim);
    for (const auto& layer : {headwise.get(), elementwise.get()}) copy_parameters(*softmax, *layer);
    set(*elementwise, "gate/weight", repeated);

    const Tensor x = random({2, kLength, kDim}), dy = random(x.shape());
    expect_near(run(*elementwise, x), run(*headwise, x), 1e-13);
    const auto expected = gradients(*headwise, x, dy), actual = gradients(*elementwise, x, dy);
    for (const auto& [path, gradient] : expected) {
      if (path != "gate/weight") {
        expect_near(actual.at(path), gradient, 1e-12);
        continue;
      }
      const Tensor sums = Tensor::zeros(gradient.shape(), DType::f64, *stream);
      for (int64_t i = 0; i < actual.at(path).numel(); ++i)
        sums.data<double>()[i / (kHeadDim * kDim) * kDim + i % kDim] += actual.at(path).data<double>()[i];
      expect_near(sums, gradient, 1e-12);
    }
  }
}

// Without groups a factor that no token changes passes through the sum over values.
TEST_F(GatedTest, AConstantGateOfValuesEqualsOneOfOutputs) {
  for (const char* granularity : {"elementwise", "headwise"}) {
    const Json keys{{"num_heads", kHeads},
                    {"head_dim", kHeadDim},
                    {"num_kv_heads", kHeads},
                    {"gate_input", "none"},
                    {"gate_granularity", granularity}};
    const auto outputs = make("gated", kDim, keys),
               values = make("gated", kDim, with(keys, {{"gate_position", "g2"}}));
    set_random(*outputs, "gate/logit");
    copy_parameters(*outputs, *values);
    const Tensor x = random({2, kLength, kDim}), dy = random(x.shape());
    expect_near(run(*values, x), run(*outputs, x), 1e-13);
    const auto actual = gradients(*values, x, dy), expected = gradients(*outputs, x, dy);
    for (const auto& [path, gradient] : expected) expect_near(actual.at(path), gradient, 1e-11);
  }
}

TEST_F(GatedTest, AnIdentityGateOfOnesEqualsSoftmax) {
  const auto softmax = make("softmax", kDim, base);
  const Tensor x = random({2, kLength, kDim});
  for (const Json& place : all_places())
    expect_equal_bits(run(*gated(*softmax, with(place, {{"gate_act", "identity"}}), 1), x), run(*softmax, x));
}

TEST_F(GatedTest, ZeroScoresOfAnAddedSiluChangeNothingAndHaveHalfTheGradient) {
  const auto softmax = make("softmax", kDim, base);
  expose_heads(*softmax);
  const Tensor x = random({2, kLength, kDim}), dy = random(x.shape());
  const auto layer = gated(*softmax, {{"gate_combine", "add"}, {"gate_act", "silu"}}, 0);
  expect_equal_bits(run(*layer, x), run(*softmax, x));
  const Tensor dz = dy.clone(*stream);
  for (int64_t i = 0; i < dz.numel(); ++i) dz.data<double>()[i] /= 2;
  expect_near(gradients(*layer, x, dy).at("gate/weight"), weight_gradient(dz, x), 1e-13);
}

// For the logistic function g the scores' gradient needs no ungated row: dz = dO O (1 - g).
TEST_F(GatedTest, GradientsOfScoresFollowFromTheGatedOutput) {
  for (const Json& place : all_places()) {
    const bool is_output = place["gate_position"] == "g5";
    if (!is_output && place["gate_position"] != "g1") continue;
    SCOPED_TRACE(place.dump());
    const auto layer = make("gated", kDim, with(base, place));
    if (!is_output) expose_heads(*layer);
    const Tensor x = random({2, kLength, kDim}), dy = random(x.shape()), y = run(*layer, x);
    const Tensor z = product(x, parameter(*layer, "gate/weight").value);
    const Tensor dz = Tensor::zeros(z.shape(), DType::f64, *stream);
    const int64_t repeats = y.numel() / z.numel();
    for (int64_t i = 0; i < y.numel(); ++i)
      dz.data<double>()[i / repeats] += dy.data<double>()[i] * y.data<double>()[i];
    for (int64_t i = 0; i < z.numel(); ++i) dz.data<double>()[i] /= 1 + std::exp(z.data<double>()[i]);
    expect_near(gradients(*layer, x, dy).at("gate/weight"), weight_gradient(dz, x), 1e-11);
  }
}

TEST_F(GatedTest, KeysThatExcludeEachOtherAreOneSentence) {
  EXPECT_THROW(
      declare("gated", kDim, with(base, {{"gate_position", "g5"}, {"gate_granularity", "headwise"}})),
      ConfigError);
  EXPECT_THROW(
      declare("gated", kDim,
              with(base, {{"gate_position", "g3"}, {"gate_granularity", "headwise"}, {"qk_norm", true}})),
      ConfigError);
  EXPECT_THROW(declare("gated", kDim, with(base, {{"gate_input_dims", kDim + 1}})), ConfigError);
}

}  // namespace
}  // namespace headway::testing
