#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "autograd/apply.h"
#include "autograd/ops/dynamic_mask.h"
#include "core/error.h"
#include "kernels/ops/dynamic_mask.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class DynamicMaskTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12;
  const Json base{{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 4}, {"top_w", 3}};
};

// The ends of all keys say the same as sorting every prefix.
TEST_F(DynamicMaskTest, EndsAreThoseOfSortingEveryPrefix) {
  constexpr int64_t kTokens = 40;
  const Variable rate(Tensor::from<double>(std::vector<double>{0.7}, {1}, *stream));
  const Tensor u = random({1, kTokens, 1});
  for (int64_t j = 3; j < kTokens; j += 7) u.data<double>()[j] = u.data<double>()[j - 2];  // ties
  for (const int64_t top_w : {1, 5, 39, 60}) {
    const auto [bias, end] =
        apply<DynamicMask>(ctx, {.top_w = top_w, .exponential = true}, Variable(u), rate);
    for (int64_t i = 0; i < kTokens; ++i) {
      std::vector<int64_t> keys(static_cast<size_t>(i + 1));
      std::iota(keys.begin(), keys.end(), 0);
      std::sort(keys.begin(), keys.end(), [&](int64_t a, int64_t b) {
        const double x = u.data<double>()[a], y = u.data<double>()[b];
        return x > y || (x == y && a > b);
      });
      for (size_t rank = 0; rank < keys.size(); ++rank)
        EXPECT_EQ(i < end.value().data<int32_t>()[keys[rank]], static_cast<int64_t>(rank) < top_w)
            << "token " << i << " key " << keys[rank] << " top " << top_w;
    }
  }
}

TEST_F(DynamicMaskTest, AnUntrainedLayerIsASlidingWindow) {
  const auto window =
      make("softmax", kDim,
           {{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 4}, {"window", 3}, {"qk_norm", true}});
  const auto masked = make("dynamic_mask", kDim, base);
  for (const char* name : {"query/weight", "key/weight", "value/weight", "output/weight", "query_norm/weight",
                           "key_norm/weight"})
    set(*masked, name, parameter(*window, name).value.to_vector<double>(*stream));
  const Tensor x = random({2, 11, kDim});
  expect_near(run(*masked, x), run(*window, x), 1e-14);
}

TEST_F(DynamicMaskTest, AWindowIsRefused) {
  EXPECT_THROW(declare("dynamic_mask", kDim, with(base, {{"window", 4}})), ConfigError);
}

}  // namespace
}  // namespace headway::testing
