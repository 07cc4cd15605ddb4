#include <cmath>

#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class AlibiTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 16, kHeads = 4;
  const Json base{{"num_heads", kHeads}, {"num_kv_heads", kHeads}, {"head_dim", 4}};
};

TEST_F(AlibiTest, SlopesStartAsInThePaper) {
  const auto layer = make("alibi", kDim, base);
  const Tensor& slopes = parameter(*layer, "slopes").value;
  double expected = 1;
  for (int64_t h = 0; h < kHeads; ++h) {
    expected *= std::exp2(-8.0 / kHeads);
    EXPECT_NEAR(std::exp2(-8.0 / kHeads) * slopes.data<double>()[h], expected, 1e-15);
  }
}

TEST_F(AlibiTest, SlopesOfZeroLeaveSoftmaxWithoutRope) {
  for (const Json& keys :
       {Json::object(), Json{{"window", 3}}, Json{{"num_kv_heads", 2}, {"qk_norm", true}}}) {
    const auto softmax = make("softmax", kDim, with(with(base, keys), {{"rope", false}}));
    const auto layer = make("alibi", kDim, with(base, keys));
    copy_parameters(*softmax, *layer);
    fill(*layer, "slopes", 0);
    const Tensor x = random({2, 9, kDim}), dy = random({2, 9, kDim});
    expect_near(run(*layer, x), run(*softmax, x), 1e-13);
    const auto expected = gradients(*softmax, x, dy), actual = gradients(*layer, x, dy);
    for (const auto& [path, gradient] : expected) {
      SCOPED_TRACE(path);
      expect_near(actual.at(path), gradient, 1e-11);
    }
  }
}

// exp(-200) of the newest key's weight is left to the key before it.
TEST_F(AlibiTest, SteepSlopesSeeTheTokenItselfAlone) {
  const auto layer = make("alibi", kDim, base);
  fill(*layer, "slopes", 200 * std::exp2(8.0 / kHeads));
  expose_heads(*layer);
  const Tensor x = random({1, 7, kDim});
  fill(*layer, "query/weight", 0);
  expect_near(run(*layer, x), product(x, parameter(*layer, "value/weight").value), 1e-12);
}

}  // namespace
}  // namespace headway::testing
