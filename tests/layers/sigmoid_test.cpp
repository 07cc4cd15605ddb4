#include <cmath>

#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class SigmoidTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 16, kLength = 8, kHeads = 4, kHeadDim = 4;
  const Json base{{"num_heads", kHeads}, {"num_kv_heads", kHeads}, {"head_dim", kHeadDim}};
};

// Queries of zero: every weight is sigmoid(-log n) = 1 / (n + 1).
TEST_F(SigmoidTest, EqualScoresWeighEveryKeyByTheContextLength) {
  for (const int64_t n : {1, 3, 1000}) {
    const auto layer = make("sigmoid", kDim, with(base, {{"context_length", n}}));
    expose_heads(*layer);
    fill(*layer, "query/weight", 0);
    const Tensor x = random({1, kLength, kDim}), y = run(*layer, x),
                 v = product(x, parameter(*layer, "value/weight").value);
    for (int64_t c = 0; c < kDim; ++c) {
      double sum = 0, size = 0;
      for (int64_t t = 0; t < kLength; ++t) {
        sum += v.data<double>()[t * kDim + c], size += std::abs(v.data<double>()[t * kDim + c]);
        // the bias is rounded to float
        EXPECT_LE(std::abs(y.data<double>()[t * kDim + c] - sum / static_cast<double>(n + 1)), 1e-6 * size);
      }
    }
  }
}

// A key counts for itself: what a token adds to a later row does not depend on the other tokens.
TEST_F(SigmoidTest, KeysDoNotCompete) {
  const auto layer = make("sigmoid", kDim, with(base, {{"rope", false}, {"context_length", 4}}));
  const Tensor x = random({1, kLength, kDim});
  const auto last_row = [&](const std::vector<int64_t>& tokens) {
    std::vector<double> rows;
    for (const int64_t t : tokens)
      rows.insert(rows.end(), x.data<double>() + t * kDim, x.data<double>() + (t + 1) * kDim);
    const auto count = static_cast<int64_t>(tokens.size());
    return run(*layer, from_doubles(rows, {1, count, kDim}, DType::f64, *stream))
        .slice(1, count - 1, count)
        .clone(*stream);
  };
  const std::vector<double> both = to_doubles(last_row({0, 1, 7}), *stream),
                            first = to_doubles(last_row({0, 7}), *stream),
                            second = to_doubles(last_row({1, 7}), *stream),
                            none = to_doubles(last_row({7}), *stream);
  for (size_t c = 0; c < both.size(); ++c)
    EXPECT_NEAR(both[c] - none[c], (first[c] - none[c]) + (second[c] - none[c]), 1e-12);
}

}  // namespace
}  // namespace headway::testing
