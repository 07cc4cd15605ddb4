#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class SoftCapTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 16;
  const Json base{{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 4}};
};

// tanh(z) = z (1 - z^2 / 3 + ...): with a cap of 1e5, scores of a few units keep ten digits.
TEST_F(SoftCapTest, AHighCapLeavesSoftmax) {
  for (const Json& keys : {Json::object(), Json{{"window", 3}}}) {
    const auto softmax = make("softmax", kDim, with(base, keys));
    const auto capped = make("soft_cap", kDim, with(with(base, keys), {{"cap", 1e5}}));
    copy_parameters(*softmax, *capped);
    const Tensor x = random({2, 9, kDim}), dy = random({2, 9, kDim});
    expect_near(run(*capped, x), run(*softmax, x), 1e-8);
    const auto expected = gradients(*softmax, x, dy), actual = gradients(*capped, x, dy);
    for (const auto& [path, gradient] : expected) {
      SCOPED_TRACE(path);
      expect_near(actual.at(path), gradient, 1e-7);
    }
  }
}

// No weight of a row is more than exp(2 cap) times another one.
TEST_F(SoftCapTest, ALowCapWeighsAllKeysAlike) {
  const auto capped = make("soft_cap", kDim, with(base, {{"cap", 1e-3}}));
  const Tensor x = random({1, 8, kDim});
  expose_heads(*capped);
  const Tensor y = run(*capped, x), v = product(x, parameter(*capped, "value/weight").value);
  for (int64_t t = 0; t < 8; ++t)
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t d = 0; d < 4; ++d) {
        double sum = 0, size = 0;
        for (int64_t j = 0; j <= t; ++j) {
          const double value = v.data<double>()[j * 8 + h / 2 * 4 + d];
          sum += value, size += std::abs(value);
        }
        const double limit = 2.1e-3 * size / static_cast<double>(t + 1);
        EXPECT_LE(std::abs(y.data<double>()[t * 16 + h * 4 + d] - sum / static_cast<double>(t + 1)), limit);
      }
}

}  // namespace
}  // namespace headway::testing
