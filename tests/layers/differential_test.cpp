#include <cmath>

#include "core/error.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class DifferentialTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 16, kHeads = 4, kHeadDim = 4;
  const Json base{{"num_heads", kHeads}, {"num_kv_heads", kHeads}, {"head_dim", kHeadDim}};

  /// lambda = exp(a.b) - exp(0) + 0.2 in the first layer.
  static void set_lambda(AttentionLayer& layer, double lambda) {
    fill(layer, "lambda_query", 0);
    fill(layer, "lambda_key", 0);
    std::vector<double> a(2 * kHeadDim, 0.0), b(2 * kHeadDim, 0.0);
    a[0] = std::log(lambda - 0.2 + 1), b[0] = 1;
    set(layer, "lambda_query", a);
    set(layer, "lambda_key", b);
  }
};

// Equal maps leave (1 - lambda) times softmax attention, and the norm after them cancels the factor but for
// its constant of 1e-5.
TEST_F(DifferentialTest, EqualMapsGiveTheSameDirectionForEveryLambda) {
  const auto layer = make("differential", kDim, base);
  std::vector<double> query = to_doubles(parameter(*layer, "query/weight").value, *stream),
                      key = to_doubles(parameter(*layer, "key/weight").value, *stream);
  constexpr int64_t kMap = kHeadDim * kDim;
  for (int64_t first = 0; first < kHeads; first += 2)
    for (int64_t i = 0; i < kMap; ++i) {
      query[(first + 1) * kMap + i] = query[first * kMap + i];
      key[(first + 1) * kMap + i] = key[first * kMap + i];
    }
  set(*layer, "query/weight", query);
  set(*layer, "key/weight", key);
  const Tensor x = random({2, 9, kDim}, 10);
  set_lambda(*layer, 0.2);
  const Tensor y = run(*layer, x);
  set_lambda(*layer, 0.5);
  expect_near(run(*layer, x), y, 1e-4);
}

// lambda = 0: a head is the norm of softmax attention with the first map alone, whatever the second one is.
TEST_F(DifferentialTest, ALambdaOfZeroLeavesTheFirstMaps) {
  const auto layer = make("differential", kDim, base);
  set_lambda(*layer, 1e-300);  // log(1 - 0.2) at zero
  const Tensor x = random({2, 9, kDim}), dy = random({2, 9, kDim});
  const Tensor y = run(*layer, x);
  std::vector<double> query = to_doubles(parameter(*layer, "query/weight").value, *stream);
  constexpr int64_t kMap = kHeadDim * kDim;
  for (int64_t i = 0; i < kMap; ++i) query[kMap + i] += 1;
  set(*layer, "query/weight", query);
  expect_near(run(*layer, x), y, 1e-12);
}

TEST_F(DifferentialTest, OddHeadsAreRefused) {
  for (const Json& keys : {Json{{"num_heads", 3}, {"num_kv_heads", 3}}, Json{{"num_kv_heads", 1}}}) {
    try {
      make("differential", kDim, with(base, keys));
      FAIL() << "nothing was thrown";
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find("expected even numbers"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace headway::testing
