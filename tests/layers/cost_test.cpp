// Work of attention layers: what the kernels execute beside what ideal ones would.
#include "kernels/attention/plan.h"
#include "kernels/attention/variants/sliding_window.h"
#include "kernels/cpu/attention/softmax_tiled.h"
#include "layers/attention/softmax_cost.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

constexpr int64_t kDim = 48, kTokens = 200;

class CostTest : public LayerTest {
 protected:
  Cost cost(std::string_view kind, const Json& more = {}, int64_t tokens = kTokens) {
    Json keys{{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 12}};
    if (!more.is_null()) keys.update(more);
    return declare(kind, kDim, keys)->cost(3, tokens, 4);
  }
  static void expect_equal(const Flop& one, const Flop& other) {
    EXPECT_NEAR(one.forward, other.forward, 1e-9 * other.forward);
    EXPECT_NEAR(one.backward, other.backward, 1e-9 * other.backward);
  }
};

/// Pairs of the tiles that the CPU's kernel visits for one head.
double pairs_of_visited_tiles(int tokens, int window) {
  const TilePlan<attention::SlidingWindow> plan{{window}, 0, tokens, tokens};
  double pairs = 0;
  for (int first = 0; first < tokens; first += tiled::kTileRows) {
    const int last = std::min(first + tiled::kTileRows, tokens) - 1;
    const IndexRange keys = plan.keys_of(first, last);
    for (int k0 = keys.first / tiled::kTileKeys * tiled::kTileKeys; k0 < keys.last; k0 += tiled::kTileKeys)
      if (plan.visits(first, last, k0, k0 + tiled::kTileKeys - 1))
        pairs += (last + 1 - first) * std::min(tiled::kTileKeys, keys.last - k0);
  }
  return pairs;
}

TEST_F(CostTest, ExecutedPairsAreThoseOfTheTilesThatTheKernelVisits) {
  for (const int tokens : {1, 17, 64, 65, 200, 1000})
    for (const int window : {0, 1, 30, 64, 65, 150, 5000}) {
      EXPECT_EQ(executed_pairs(tokens, window), pairs_of_visited_tiles(tokens, window))
          << tokens << " tokens, window " << window;
      EXPECT_GE(executed_pairs(tokens, window), visible_pairs(tokens, window));
    }
}

// Every third token is a row.
TEST_F(CostTest, ExecutedPairsOfAShareAreThoseOfTilesOfSpreadRows) {
  constexpr int kEvery = 3, kTile = tiled::kTileRows, kRows = 10 * kTile;
  for (const int window : {0, 150}) {
    double pairs = 0;
    for (int first = 0; first < kRows; first += kTile) {
      const int first_key = window > 0 ? std::max(first * kEvery - window + 1, 0) / kTile * kTile : 0;
      pairs += kTile * ((first + kTile - 1) * kEvery + 1 - first_key);
    }
    EXPECT_NEAR(executed_pairs(kRows * kEvery, window, 1.0 / kEvery), pairs, 0.01 * pairs) << window;
  }
}

TEST_F(CostTest, MixtureOfHeadsExecutesTheHeadsInUse) {
  const Json routed{{"shared_heads", 1}, {"top_k", 1}, {"gate_mode", "paper"}};
  const Cost moh = cost("moh", routed), softmax = cost("softmax");
  const double rows = 3.0 * kTokens, router = 2 * rows * kDim * (4 + 2);
  // One of four heads, and the tiles of a third of the rows of the others.
  const double unused = 2 * 3 * 3 * 12 * (executed_pairs(kTokens, 0) - executed_pairs(kTokens, 0, 1.0 / 3));
  Flop expected = softmax.executed_flop;
  expected += {router - 2 * unused, 2 * router - 5 * unused};
  expect_equal(moh.executed_flop, expected);
  // Two of four heads.
  const double product = 2 * 3 * 4 * 12 * visible_pairs(kTokens, 0);
  EXPECT_NEAR(moh.ideal_flop.forward, softmax.ideal_flop.forward + router - product, 1);
  EXPECT_NEAR(moh.ideal_flop.backward, softmax.ideal_flop.backward + 2 * router - 2.5 * product, 1);
}

TEST_F(CostTest, DynamicMaskExecutesEveryPairWhateverItKeeps) {
  const Cost few = cost("dynamic_mask", {{"top_w", 8}}), many = cost("dynamic_mask", {{"top_w", 64}});
  expect_equal(few.executed_flop, many.executed_flop);
  EXPECT_GT(few.executed_flop.forward, cost("softmax").executed_flop.forward);
  const double product = 2 * 3 * 4 * 12 * (visible_pairs(kTokens, 64) - visible_pairs(kTokens, 8));
  EXPECT_NEAR(many.ideal_flop.forward - few.ideal_flop.forward, 2 * product, 1);
  EXPECT_NEAR(many.ideal_flop.backward - few.ideal_flop.backward, 5 * product, 1);
}

TEST_F(CostTest, AffineAddsUpVisibleValuesByAThirdProduct) {
  const Cost with = cost("affine"), without = cost("affine", {{"affine_beta", false}});
  EXPECT_NEAR(with.executed_flop.forward - without.executed_flop.forward,
              2 * 3 * 4 * 12 * executed_pairs(kTokens, 0), 1);
  EXPECT_EQ(with.executed_flop.backward, without.executed_flop.backward);
  expect_equal(with.ideal_flop, without.ideal_flop);
}

TEST_F(CostTest, TheLinearFamilyNeedsHalfThePairsOfItsChunks) {
  const Cost lightning = cost("lightning", {{"num_kv_heads", 4}});
  const double pairs = 3 * kTokens * 4 * (64 - 32.5);
  EXPECT_NEAR(lightning.executed_flop.forward - lightning.ideal_flop.forward, pairs * 2 * (12 + 12), 1);
  EXPECT_NEAR(lightning.executed_flop.backward - lightning.ideal_flop.backward, pairs * 2 * (36 + 24), 1);
}

}  // namespace
}  // namespace headway::testing
