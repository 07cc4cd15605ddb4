// Which examples an evaluation reads.
#include "trainers/evaluator.h"

#include <gtest/gtest.h>

#include <numeric>

namespace headway {
namespace {

TEST(Evaluator, ReadsWholeExamplesSpreadEvenly) {
  for (const int64_t num_examples : {1, 2, 7, 100, 1013})
    for (const int64_t tokens : {1, 8, 9, 80, 4096, 100'000}) {
      const std::vector<int64_t> chosen = evaluated_examples(num_examples, {.tokens = tokens, .seq_len = 8});
      const int64_t count = std::min(num_examples, (tokens + 7) / 8);
      ASSERT_EQ(static_cast<int64_t>(chosen.size()), count);
      EXPECT_GE(chosen.front(), 0);
      EXPECT_LT(chosen.back(), num_examples);
      for (size_t i = 1; i < chosen.size(); ++i) {
        const int64_t distance = chosen[i] - chosen[i - 1];
        EXPECT_GE(distance, num_examples / count);
        EXPECT_LE(distance, (num_examples + count - 1) / count);
      }
    }
}

TEST(Evaluator, ReadsAllWhereNoLimitIsSet) {
  std::vector<int64_t> all(57);
  std::iota(all.begin(), all.end(), int64_t{0});
  EXPECT_EQ(evaluated_examples(57, {.tokens = 0, .seq_len = 8}), all);
  EXPECT_EQ(evaluated_examples(57, {.tokens = 57 * 8, .seq_len = 8}), all);
  EXPECT_TRUE(evaluated_examples(0, {.tokens = 8, .seq_len = 8}).empty());
}

}  // namespace
}  // namespace headway
