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
};

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
