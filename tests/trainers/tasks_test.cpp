// Synthetic tasks: every property of a generated example that its definition names.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/backend.h"
#include "core/error.h"
#include "tests/support/seed.h"
#include "trainers/data/batch.h"
#include "trainers/data/tasks/task.h"

namespace headway {
namespace {

constexpr int64_t kExamples = 200;

struct Example {
  std::vector<int32_t> tokens, targets;
};

DataRecipe recipe_of(const std::string& kind, int64_t seq_len, int64_t items) {
  DataRecipe recipe;
  recipe.seq_len = seq_len;
  recipe.task.kind = kind;
  recipe.task.items = items;
  recipe.task.vocab_size = 256;
  return recipe;
}

Example example(const ExampleSource& source, int64_t seq_len, int64_t index, Split split = Split::train) {
  Example result{std::vector<int32_t>(static_cast<size_t>(seq_len), -7),
                 std::vector<int32_t>(static_cast<size_t>(seq_len), -7)};
  source.read({split, index}, result.tokens, result.targets);
  return result;
}

/// Calls the check with examples at the sizes, of which the first have the most items that fit.
template <class Check>
void for_examples(const std::string& kind, const std::vector<std::pair<int64_t, int64_t>>& sizes,
                  const Check& check) {
  const uint32_t seed = fresh_seed();
  for (const auto& [seq_len, items] : sizes) {
    SCOPED_TRACE(kind + " of " + std::to_string(items) + " in " + std::to_string(seq_len) + ", seed " +
                 std::to_string(seed));
    const auto source = open_task(recipe_of(kind, seq_len, items), seed);
    for (int64_t i = 0; i < kExamples; ++i) {
      const Example e = example(*source, seq_len, i);
      for (const int32_t token : e.tokens) ASSERT_TRUE(token >= 0 && token < 256) << token;
      check(e, items);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

int64_t num_asked(const Example& e) {
  return std::ranges::count_if(e.targets, [](int32_t target) { return target >= 0; });
}

TEST(Tasks, MqarAsksEveryKeyOnceForItsValue) {
  for_examples("mqar", {{32, 8}, {64, 5}, {8, 1}}, [](const Example& e, int64_t items) {
    std::map<int32_t, int32_t> value_of;
    std::set<int32_t> values, asked;
    for (int64_t m = 0; m < items; ++m) {
      const int32_t key = e.tokens[2 * m], value = e.tokens[2 * m + 1];
      ASSERT_TRUE(key >= 1 && key < 128 && value >= 128);
      value_of[key] = value;
      values.insert(value);
    }
    ASSERT_EQ(static_cast<int64_t>(value_of.size()), items);
    ASSERT_EQ(static_cast<int64_t>(values.size()), items);
    for (size_t i = 0; i < e.tokens.size(); ++i) {
      if (e.targets[i] < 0) continue;
      ASSERT_TRUE(i >= static_cast<size_t>(2 * items) && i % 2 == 0);
      ASSERT_EQ(e.targets[i], value_of.at(e.tokens[i]));
      ASSERT_TRUE(asked.insert(e.tokens[i]).second);
    }
    ASSERT_EQ(static_cast<int64_t>(asked.size()), items);
  });
}

// One key and slots g = 0..14: a key returns at slot g with probability (1 + g)^(a - 1) / sum.
TEST(Tasks, MqarGapsFollowThePowerLaw) {
  DataRecipe recipe = recipe_of("mqar", 32, 1);
  recipe.task.examples = 20'000;
  for (const double power : {0.01, 1.0}) {
    recipe.task.gap_power = power;
    const auto source = open_task(recipe, fresh_seed());
    std::vector<double> count(15, 0);
    for (int64_t i = 0; i < recipe.task.examples; ++i) {
      const Example e = example(*source, 32, i);
      const auto at = std::ranges::find_if(e.targets, [](int32_t t) { return t >= 0; }) - e.targets.begin();
      ++count[static_cast<size_t>((at - 2) / 2)];
    }
    double total = 0;
    for (int g = 0; g < 15; ++g) total += std::pow(1 + g, power - 1);
    for (int g = 0; g < 15; ++g) {
      const double p = std::pow(1 + g, power - 1) / total, n = static_cast<double>(recipe.task.examples);
      // 5 standard deviations of a binomial count
      EXPECT_LE(std::abs(count[static_cast<size_t>(g)] - n * p), 5 * std::sqrt(n * p * (1 - p)))
          << "slot " << g;
    }
  }
}

TEST(Tasks, MqarWithoutRandomFillerHasZeros) {
  DataRecipe recipe = recipe_of("mqar", 64, 4);
  recipe.task.random_filler = false;
  const Example e = example(*open_task(recipe, 1), 64, 0);
  EXPECT_EQ(std::ranges::count(e.tokens, 0), 64 - 3 * 4);
}

TEST(Tasks, CopyAsksTheStringAgain) {
  for_examples("copy", {{20, 10}, {33, 5}, {7, 1}}, [](const Example& e, int64_t items) {
    const auto separator = e.tokens.size() - static_cast<size_t>(items);
    ASSERT_EQ(e.tokens[separator], TaskVocabulary::separator);
    for (size_t i = 0; i < static_cast<size_t>(items); ++i) {
      ASSERT_EQ(e.targets[separator + i], e.tokens[i]);
      if (i > 0) {
        ASSERT_EQ(e.tokens[separator + i], e.tokens[i - 1]);
      }
    }
    ASSERT_EQ(num_asked(e), items);
  });
}

TEST(Tasks, PasskeyAsksTheHiddenDigits) {
  std::set<size_t> places;
  for_examples("passkey", {{16, 5}, {64, 5}, {40, 1}}, [&](const Example& e, int64_t items) {
    const auto open =
        static_cast<size_t>(std::ranges::find(e.tokens, TaskVocabulary::open) - e.tokens.begin());
    const size_t answer = e.tokens.size() - static_cast<size_t>(items);
    ASSERT_EQ(e.tokens[0], TaskVocabulary::begin);
    ASSERT_EQ(e.tokens[answer], TaskVocabulary::answer);
    ASSERT_EQ(e.tokens[answer - 1], e.tokens[open + 1]);  // the key
    ASSERT_EQ(e.tokens[answer - 2], TaskVocabulary::query);
    ASSERT_EQ(e.tokens[open + 2 + static_cast<size_t>(items)], TaskVocabulary::close);
    for (size_t i = 0; i < static_cast<size_t>(items); ++i) {
      const int32_t digit = e.tokens[open + 2 + i];
      ASSERT_TRUE(digit >= 16 && digit < 26);
      ASSERT_EQ(e.targets[answer + i], digit);
      if (i > 0) {
        ASSERT_EQ(e.tokens[answer + i], e.tokens[open + 1 + i]);
      }
    }
    ASSERT_EQ(num_asked(e), items);
    // no answer appears elsewhere
    ASSERT_EQ(std::ranges::count_if(e.tokens, [](int32_t t) { return t >= 16 && t < 26; }), 2 * items - 1);
    if (e.tokens.size() == 64) places.insert(open);
  });
  EXPECT_GE(places.size(), 30u);  // of 48 places in 200 examples
}

TEST(Tasks, NeedleAsksEveryFactOnce) {
  for_examples("needle", {{36, 4}, {100, 3}, {9, 1}}, [](const Example& e, int64_t items) {
    std::map<int32_t, int32_t> value_of;
    std::set<int32_t> asked;
    for (size_t i = 0; i + 4 < e.tokens.size(); ++i) {
      if (e.tokens[i] != TaskVocabulary::open) continue;
      ASSERT_EQ(e.tokens[i + 2], TaskVocabulary::assign);
      ASSERT_EQ(e.tokens[i + 4], TaskVocabulary::close);
      value_of[e.tokens[i + 1]] = e.tokens[i + 3];
    }
    ASSERT_EQ(static_cast<int64_t>(value_of.size()), items);
    for (size_t i = 0; i < e.tokens.size(); ++i) {
      if (e.targets[i] < 0) continue;
      ASSERT_EQ(e.tokens[i], TaskVocabulary::answer);
      ASSERT_EQ(e.tokens[i - 2], TaskVocabulary::query);
      ASSERT_EQ(e.targets[i], value_of.at(e.tokens[i - 1]));
      if (i + 1 < e.tokens.size()) {
        ASSERT_EQ(e.tokens[i + 1], e.targets[i]);
      }
      ASSERT_TRUE(asked.insert(e.tokens[i - 1]).second);
    }
    ASSERT_EQ(static_cast<int64_t>(asked.size()), items);
  });
}

// The share of the filler that stands before the first fact, and nothing else, follows the depth.
TEST(Tasks, ADepthPlacesTheFirstFact) {
  const uint32_t seed = fresh_seed();
  constexpr int64_t kLength = 100;
  for (const auto& [kind, num_filler] : {std::pair{"passkey", 100 - 7 - 5}, {"needle", 100 - 1 - 15 - 11}}) {
    SCOPED_TRACE(kind);
    DataRecipe recipe = recipe_of(kind, kLength, 3);
    for (int64_t i = 0; i < kExamples; ++i) {
      std::set<std::vector<int32_t>> facts;
      for (const double depth : {0.0, 0.5, 1.0}) {
        recipe.task.depth = depth;
        const Example e = example(*open_task(recipe, seed), kLength, i);
        const auto open = std::ranges::find(e.tokens, TaskVocabulary::open);
        ASSERT_EQ(open - e.tokens.begin() - 1, static_cast<int64_t>(depth * num_filler));
        facts.insert({open, open + 5});
      }
      ASSERT_EQ(facts.size(), 1u);
    }
  }
}

TEST(Tasks, ADepthIsRefusedWhereFactsHavePlacesOfTheirOwn) {
  for (const Task* task : all_tasks()) {
    DataRecipe recipe = recipe_of(std::string(task->name), 64, 4);
    recipe.task.depth = 0.5;
    if (task->fact_places == FactPlaces::by_depth)
      EXPECT_NO_THROW(open_task(recipe, 1));
    else
      EXPECT_THROW(open_task(recipe, 1), ConfigError) << task->name;
  }
}

TEST(Tasks, ExamplesDependOnSeedSplitAndIndexAlone) {
  for (const Task* task : all_tasks()) {
    SCOPED_TRACE(task->name);
    const DataRecipe recipe = recipe_of(std::string(task->name), 64, 4);
    DataRecipe other_split = recipe;
    other_split.split_seed = 7;
    const auto source = open_task(recipe, 1), again = open_task(recipe, 1), other = open_task(other_split, 2);
    std::set<std::vector<int32_t>> all;
    for (int64_t i = 99; i >= 0; --i) {
      EXPECT_EQ(example(*source, 64, i).tokens, example(*again, 64, i).tokens);
      for (const Split split : {Split::train, Split::validation})
        for (const auto* each : {&source, &other}) all.insert(example(**each, 64, i, split).tokens);
    }
    EXPECT_EQ(all.size(), 400u);
    EXPECT_EQ(source->fingerprint(), again->fingerprint());
    EXPECT_NE(source->fingerprint(), other->fingerprint());
  }
}

TEST(Tasks, TheSplitSeedAloneChoosesTheValidationExamples) {
  for (const Task* task : all_tasks()) {
    SCOPED_TRACE(task->name);
    DataRecipe recipe = recipe_of(std::string(task->name), 64, 4);
    const auto first = open_task(recipe, 1), second = open_task(recipe, 2);
    recipe.split_seed = 3;
    const auto other_split = open_task(recipe, 1);
    for (int64_t i = 0; i < 20; ++i) {
      const auto tokens = [&](const ExampleSource& source, Split split) {
        return example(source, 64, i, split).tokens;
      };
      EXPECT_EQ(tokens(*first, Split::validation), tokens(*second, Split::validation));
      EXPECT_NE(tokens(*first, Split::train), tokens(*second, Split::train));
      EXPECT_NE(tokens(*first, Split::validation), tokens(*other_split, Split::validation));
      EXPECT_EQ(tokens(*first, Split::train), tokens(*other_split, Split::train));
    }
    EXPECT_EQ(first->digests().held_out, second->digests().held_out);
    EXPECT_NE(first->digests().train, second->digests().train);
    EXPECT_NE(first->digests().held_out, other_split->digests().held_out);
    EXPECT_EQ(first->digests().train, other_split->digests().train);
  }
}

TEST(Tasks, TooManyItemsAreRefusedInASentence) {
  for (const auto& [kind, seq_len, most] : {std::tuple{"mqar", 64, 16},
                                            {"mqar", 63, 0},
                                            {"mqar", 256, 0},
                                            {"copy", 65, 32},
                                            {"passkey", 64, 29},
                                            {"needle", 64, 7}}) {
    SCOPED_TRACE(kind);
    try {
      open_task(recipe_of(kind, seq_len, most + 1), 1);
      FAIL() << "no error";
    } catch (const ConfigError& error) {
      EXPECT_EQ(std::string(error.what()), "data.task.items = " + std::to_string(most + 1) +
                                               ": expected at most " + std::to_string(most) + " for " + kind +
                                               " with data.seq_len = " + std::to_string(seq_len) +
                                               " and data.task.vocab_size = 256");
    }
    if (most > 0) {
      EXPECT_NO_THROW(example(*open_task(recipe_of(kind, seq_len, most), 1), seq_len, 0));
    }
  }
}

TEST(Tasks, DistinctNumbersAreAPermutationOfEqualChances) {
  std::vector<int> first(5, 0);
  for (uint32_t i = 0; i < 5000; ++i) {
    Draw draw({fresh_seed(), i, 0, 0});
    const std::vector<int32_t> numbers = draw.distinct(5, 10, 15);
    ++first[static_cast<size_t>(numbers[0] - 10)];
    EXPECT_EQ(std::set<int32_t>(numbers.begin(), numbers.end()), (std::set<int32_t>{10, 11, 12, 13, 14}));
  }
  for (const int count : first) EXPECT_LE(std::abs(count - 1000), 150);  // 5 standard deviations
}

}  // namespace
}  // namespace headway
