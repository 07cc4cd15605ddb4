#include "trainers/schedule.h"

#include <gtest/gtest.h>

namespace headway {
namespace {

Schedule make(Schedule::Kind kind) {
  return {.kind = kind, .warmup_steps = 10, .total_steps = 100, .min_ratio = 0.1, .decay_fraction = 0.2};
}

TEST(Schedule, WarmupRisesToThePeak) {
  for (const auto kind :
       {Schedule::Kind::constant, Schedule::Kind::linear, Schedule::Kind::cosine, Schedule::Kind::wsd}) {
    EXPECT_DOUBLE_EQ(make(kind).factor(0), 0.1);
    EXPECT_DOUBLE_EQ(make(kind).factor(9), 1);
  }
}

TEST(Schedule, DecaysReachTheFloorAtTheLastStep) {
  for (const auto kind : {Schedule::Kind::linear, Schedule::Kind::cosine, Schedule::Kind::wsd}) {
    const Schedule schedule = make(kind);
    EXPECT_NEAR(schedule.factor(99), 0.1, 1e-15);
    for (int64_t step = 10; step < 99; ++step) EXPECT_LE(schedule.factor(step + 1), schedule.factor(step));
  }
  EXPECT_EQ(make(Schedule::Kind::constant).factor(99), 1);
}

TEST(Schedule, CosineIsHalfwayInTheMiddle) {
  EXPECT_NEAR(make(Schedule::Kind::cosine).factor(54), 0.55, 1e-12);
}

TEST(Schedule, WsdIsFlatUntilItsDecay) {
  EXPECT_EQ(make(Schedule::Kind::wsd).factor(79), 1);
  EXPECT_LT(make(Schedule::Kind::wsd).factor(80), 1);
  EXPECT_NEAR(make(Schedule::Kind::wsd).factor(89), 0.55, 1e-12);
}

}  // namespace
}  // namespace headway
