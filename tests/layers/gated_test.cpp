#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class GatedTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12;
  const Json base{{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 4}};

  static Json with(Json keys, const Json& more) {
    keys.update(more);
    return keys;
  }
  std::vector<Json> settings() const {
    std::vector<Json> all;
    for (const char* position : {"g1", "g2", "g3", "g4", "g5"})
      for (const char* granularity : {"elementwise", "headwise"}) {
        if (std::string(position) == "g5" && std::string(granularity) == "headwise") continue;
        all.push_back(with(base, {{"gate_position", position}, {"gate_granularity", granularity}}));
      }
    for (const char* heads : {"shared_mean_post", "shared_mean_pre"})
      all.push_back(with(base, {{"gate_heads", heads}, {"gate_act", "ns_sigmoid"}}));
    all.push_back(
        with(base, {{"gate_combine", "add"}, {"gate_act", "silu"}, {"qk_norm", true}, {"window", 3}}));
    all.push_back(with(base, {{"gate_input", "none"}}));
    all.push_back(
        with(base, {{"gate_input", "none"}, {"gate_granularity", "headwise"}, {"gate_position", "g2"}}));
    all.push_back(with(base, {{"gate_input_dims", 5}, {"gate_bias", true}, {"gate_act", "identity"}}));
    return all;
  }
  std::unique_ptr<AttentionLayer> random_layer(const Json& keys) {
    auto layer = make("gated", kDim, keys);
    if (keys.value("gate_input", "x") == "none") set_random(*layer, "gate/logit");
    if (keys.value("gate_bias", false)) set_random(*layer, "gate/bias");
    return layer;
  }
};

TEST_F(GatedTest, Gradients) {
  for (const Json& keys : settings())
    for (const int64_t length : {1, 6}) {
      SCOPED_TRACE(keys.dump() + " tokens " + std::to_string(length));
      expect_gradients(*random_layer(keys), random({2, length, kDim}), 1e-8);
    }
}

TEST_F(GatedTest, IsCausalAndDecodesAsInOnePass) {
  for (const Json& keys : settings()) {
    SCOPED_TRACE(keys.dump());
    const auto layer = random_layer(keys);
    expect_causal(*layer, kDim, 7);
    expect_decoding_equals_one_pass(*layer, kDim);
  }
}

// A gate of zero scores lets half of everything through, an identity gate of ones everything.
TEST_F(GatedTest, ClosedAndOpenGatesScaleSoftmaxAttention) {
  const auto softmax = make("softmax", kDim, base);
  const auto gated = make("gated", kDim, with(base, {{"gate_input", "none"}, {"gate_act", "identity"}}));
  for (const char* name : {"query/weight", "key/weight", "value/weight", "output/weight"})
    set(*gated, name, parameter(*softmax, name).value.to_vector<double>(*stream));
  set(*gated, "gate/logit", std::vector<double>(16, 1.0));
  const Tensor x = random({2, 9, kDim});
  expect_near(run(*gated, x), run(*softmax, x), 1e-14);

  const auto half = make("gated", kDim, base);
  for (const char* name : {"query/weight", "key/weight", "value/weight", "output/weight"})
    set(*half, name, parameter(*softmax, name).value.to_vector<double>(*stream));
  set(*half, "gate/weight", std::vector<double>(16 * kDim, 0.0));
  const Tensor whole = run(*softmax, x), halved = run(*half, x);
  for (int64_t i = 0; i < whole.numel(); ++i)
    EXPECT_LE(std::abs(halved.data<double>()[i] - whole.data<double>()[i] / 2), 1e-14);
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
