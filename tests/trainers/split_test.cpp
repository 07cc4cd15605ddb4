// What is held out of a text: ranges of tokens, and what earlier versions held out.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>

#include "core/error.h"
#include "tests/support/seed.h"
#include "trainers/data/token_corpus.h"

namespace headway {
namespace {

std::vector<int64_t> places(const TokenRanges& ranges) {
  std::vector<int64_t> all;
  for (const auto& [begin, end] : ranges.ranges())
    for (int64_t i = begin; i < end; ++i) all.push_back(i);
  return all;
}

TEST(Split, ARangeAndItsComplementHoldEveryTokenOnce) {
  for (const int64_t num_tokens : {int64_t{1}, int64_t{7}, 3 * kHeldOutBlock + 5, 8 * kHeldOutBlock})
    for (const double fraction : {0.0, 0.05, 0.4, 0.9})
      for (const bool in_blocks : {false, true}) {
        if (in_blocks && (num_tokens <= kHeldOutBlock || fraction == 0)) continue;
        const uint32_t seed = fresh_seed();
        SCOPED_TRACE("seed " + std::to_string(seed));
        const TokenRanges held_out =
            in_blocks ? held_out_blocks(num_tokens, fraction, seed) : held_out_tail(num_tokens, fraction);
        const TokenRanges others = held_out.complement(num_tokens);
        EXPECT_EQ(held_out.num_tokens() + others.num_tokens(), num_tokens);
        std::vector<int64_t> all = places(held_out);
        const std::vector<int64_t> rest = places(others);
        all.insert(all.end(), rest.begin(), rest.end());
        std::ranges::sort(all);
        std::vector<int64_t> expected(static_cast<size_t>(num_tokens));
        std::iota(expected.begin(), expected.end(), int64_t{0});
        EXPECT_EQ(all, expected);
      }
}

TEST(Split, BlocksAreTheNearestShareAndTheSeedsOwn) {
  constexpr int64_t kTokens = 20 * kHeldOutBlock - 9;
  const TokenRanges blocks = held_out_blocks(kTokens, 0.1, 0);
  EXPECT_EQ(blocks.ranges().size(), 2u);
  EXPECT_EQ(places(blocks), places(held_out_blocks(kTokens, 0.1, 0)));
  int64_t others = 0;
  for (int64_t seed = 1; seed <= 20; ++seed)
    others += places(held_out_blocks(kTokens, 0.1, seed)) != places(blocks);
  EXPECT_GT(others, 15);
  EXPECT_EQ(held_out_blocks(2 * kHeldOutBlock, 0.001, 1).ranges().size(), 1u);
  EXPECT_EQ(held_out_blocks(2 * kHeldOutBlock, 0.9, 1).ranges().size(), 1u);
  EXPECT_THROW(held_out_blocks(kHeldOutBlock, 0.1, 1), DataError);
}

TEST(Split, APlaceInASequenceOfRangesIsFoundInTheText) {
  const TokenRanges ranges({{2, 5}, {9, 10}, {12, 20}});
  const std::vector<int64_t> all = places(ranges);
  for (int64_t offset = 0; offset < ranges.num_tokens(); ++offset)
    for (int64_t count = 0; offset + count <= ranges.num_tokens(); ++count)
      EXPECT_EQ(places(TokenRanges(ranges.find(offset, count))),
                std::vector(all.begin() + offset, all.begin() + offset + count));
}

TEST(Split, ARecipeFromBeforeSplitSeedIsSplitByItsRunSeed) {
  const std::string old = "[run]\nseed = 5\n[data]\ntext = [\"x\"]\n[train]\nmax_steps = 100\n";
  const Recipe stored = parse_stored_recipe(old, "r", {"run.seed=6"});
  EXPECT_EQ(stored.data.split_seed, 5);
  EXPECT_EQ(stored.run.seed, 6);
  EXPECT_EQ(stored.origins.at("data.split_seed"), kSplitByRunSeed);
  EXPECT_EQ(stored.data.windows, "fixed");
  EXPECT_EQ(parse_stored_recipe(old, "r", {"data.split_seed=7"}).data.split_seed, 7);
  Recipe now = parse_recipe(old, "r", {});
  EXPECT_EQ(now.data.split_seed, 0);
  EXPECT_EQ(now.data.windows, "moving");
  const Recipe again = parse_stored_recipe(now.to_toml(), "r", {"run.seed=6"});
  EXPECT_EQ(again.data.split_seed, 0);
  EXPECT_EQ(again.data.windows, "moving");
}

}  // namespace
}  // namespace headway
