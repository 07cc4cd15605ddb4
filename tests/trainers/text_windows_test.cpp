// Where text is cut into training sequences.
#include "trainers/data/text_windows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "core/error.h"
#include "tests/support/seed.h"

namespace headway {
namespace {

/// Tokens that are numbered, so that a token says where it stands.
class Numbers final : public TokenCorpus {
 public:
  Numbers(int64_t num_train, int64_t num_validation)
      : num_train_(num_train), num_validation_(num_validation) {}
  int64_t num_tokens(Split split) const override {
    return split == Split::train ? num_train_ : num_validation_;
  }
  void read(Split split, int64_t offset, std::span<int32_t> ids) const override {
    ASSERT_LE(offset + static_cast<int64_t>(ids.size()), num_tokens(split));
    for (int32_t& id : ids) id = static_cast<int32_t>(offset++);
  }
  std::string fingerprint() const override { return ""; }
  DataDigests digests() const override { return {}; }
  double bytes_per_token() const override { return 1; }
  std::string description() const override { return ""; }

 private:
  int64_t num_train_, num_validation_;
};

struct Windows {
  Windows(int64_t num_train, int64_t seq_len, const std::string& windows, int64_t seed)
      : num_tokens(num_train), length(seq_len) {
    DataRecipe recipe;
    recipe.seq_len = seq_len;
    recipe.windows = windows;
    source = open_text_windows(std::make_unique<Numbers>(num_train, 2 * seq_len), recipe, seed);
  }
  /// Tokens and targets.
  std::pair<std::vector<int32_t>, std::vector<int32_t>> read(const ExamplePlace& place) const {
    std::vector<int32_t> tokens(static_cast<size_t>(length), -7), targets = tokens;
    source->read(place, tokens, targets);
    return {tokens, targets};
  }
  int64_t num_windows() const { return source->num_examples(Split::train); }
  /// First tokens of an epoch's windows.
  std::set<int32_t> cuts(int64_t epoch) const {
    std::set<int32_t> all;
    for (int64_t i = 0; i < num_windows(); ++i) all.insert(read({Split::train, i, epoch}).first.front());
    return all;
  }

  int64_t num_tokens, length;
  std::unique_ptr<ExampleSource> source;
};

TEST(TextWindows, EveryEpochAsksForEachTokenOnce) {
  for (const auto& [num_tokens, seq_len] : {std::pair{64, 8}, {67, 8}, {9, 8}, {8, 7}, {1000, 33}, {2, 1}}) {
    const uint32_t seed = fresh_seed();
    SCOPED_TRACE(std::to_string(num_tokens) + " tokens by " + std::to_string(seq_len) + ", seed " +
                 std::to_string(seed));
    const Windows windows(num_tokens, seq_len, "moving", seed);
    EXPECT_EQ(windows.num_windows(), (num_tokens + seq_len - 1) / seq_len);
    for (int64_t epoch = 0; epoch < 5; ++epoch) {
      std::map<int32_t, int> asked;
      for (int64_t i = 0; i < windows.num_windows(); ++i) {
        const auto [tokens, targets] = windows.read({Split::train, i, epoch});
        for (size_t k = 0; k < tokens.size(); ++k) {
          if (k > 0) {
            EXPECT_EQ(tokens[k], (tokens[k - 1] + 1) % num_tokens);
          }
          if (targets[k] < 0) continue;
          EXPECT_EQ(targets[k], (tokens[k] + 1) % num_tokens);
          ++asked[targets[k]];
        }
      }
      EXPECT_EQ(static_cast<int>(asked.size()), num_tokens);
      EXPECT_TRUE(std::ranges::all_of(asked, [](const auto& token) { return token.second == 1; }));
    }
  }
}

TEST(TextWindows, CutsFollowFromSeedAndEpoch) {
  const Windows windows(4096, 64, "moving", 1), again(4096, 64, "moving", 1), other(4096, 64, "moving", 2);
  std::set<std::set<int32_t>> all;
  for (int64_t epoch = 0; epoch < 8; ++epoch) {
    EXPECT_EQ(windows.cuts(epoch), again.cuts(epoch));
    all.insert(windows.cuts(epoch));
    all.insert(other.cuts(epoch));
  }
  EXPECT_GE(all.size(), 12u);  // of 64 offsets that cut differently, 16 are drawn
}

TEST(TextWindows, FixedCutsStandAtMultiplesOfTheLengthInEveryEpoch) {
  const Windows windows(67, 8, "fixed", fresh_seed());
  EXPECT_EQ(windows.num_windows(), 8);
  EXPECT_EQ(windows.cuts(0), (std::set<int32_t>{0, 8, 16, 24, 32, 40, 48, 56}));
  EXPECT_EQ(windows.cuts(3), windows.cuts(0));
}

TEST(TextWindows, ValidationWindowsAskForTheRestToo) {
  const Windows windows(64, 8, "moving", fresh_seed());
  ASSERT_EQ(windows.source->num_examples(Split::validation), 2);
  EXPECT_EQ(windows.read({Split::validation, 1}).second,
            (std::vector<int32_t>{9, 10, 11, 12, 13, 14, 15, -1}));
}

TEST(TextWindows, ATextShorterThanOneSequenceIsRefused) {
  EXPECT_THROW(Windows(8, 8, "moving", 1), DataError);
  EXPECT_THROW(Windows(8, 8, "fixed", 1), DataError);
  EXPECT_NO_THROW(Windows(9, 8, "moving", 1));
}

}  // namespace
}  // namespace headway
