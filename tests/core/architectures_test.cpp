#include "core/cuda/architectures.h"

#include <gtest/gtest.h>

namespace headway {
namespace {

TEST(Architectures, CodeWithALetterRunsOnItsOwnOnly) {
  EXPECT_TRUE(runs_on("90a", 9, 0));
  EXPECT_FALSE(runs_on("90a", 10, 0));
  EXPECT_FALSE(runs_on("90a", 8, 0));
  EXPECT_FALSE(runs_on("100a", 10, 3));
  EXPECT_TRUE(runs_on("103a", 10, 3));
}

TEST(Architectures, OtherCodeRunsOnLaterOnesOfItsGeneration) {
  EXPECT_TRUE(runs_on("80", 8, 0));
  EXPECT_TRUE(runs_on("80", 8, 9));
  EXPECT_FALSE(runs_on("89", 8, 0));
  EXPECT_FALSE(runs_on("80", 9, 0));
  EXPECT_TRUE(runs_on("80-real", 8, 6));
}

TEST(Architectures, AnyOfAListWillDo) {
  EXPECT_TRUE(runs_on("80;90a", 9, 0));
  EXPECT_TRUE(runs_on("80;90a", 8, 6));
  EXPECT_FALSE(runs_on("80;90a", 7, 5));
  EXPECT_FALSE(runs_on("", 9, 0));
}

}  // namespace
}  // namespace headway
