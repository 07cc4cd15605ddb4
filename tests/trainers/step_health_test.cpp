#include "trainers/step_health.h"

#include <gtest/gtest.h>

#include <cmath>

namespace headway {
namespace {

/// Losses of 2.00 to 2.04 and norms of 1.0 to 1.4: medians 2.02 and 1.2, deviation 0.1.
StepHealth after_steps(int count) {
  StepHealth health;
  for (int i = 0; i < count; ++i) health.add(2 + 0.01 * (i % 5), 1 + 0.1 * (i % 5));
  return health;
}

TEST(StepHealth, OrdinaryStepsAreNeitherSpikesNorOutliers) {
  const StepHealth health = after_steps(300);
  EXPECT_EQ(health.loss_spikes(), 0);
  EXPECT_EQ(health.outliers_6mad(), 0);
  EXPECT_EQ(health.outliers_9mad(), 0);
}

TEST(StepHealth, SpikesAreATenthOfANatAboveTheMedian) {
  StepHealth health = after_steps(100);
  health.add(2.11, 1);
  EXPECT_EQ(health.loss_spikes(), 0);
  health.add(2.13, 1);
  EXPECT_EQ(health.loss_spikes(), 1);
  health.add(1, 1);  // below is none
  EXPECT_EQ(health.loss_spikes(), 1);
}

TEST(StepHealth, OutliersAreSixAndNineDeviationsAboveTheMedian) {
  StepHealth health = after_steps(100);
  health.add(2, 1.75);
  EXPECT_EQ(health.outliers_6mad(), 0);
  health.add(2, 1.85);
  EXPECT_EQ(health.outliers_6mad(), 1);
  EXPECT_EQ(health.outliers_9mad(), 0);
  health.add(2, 2.2);
  EXPECT_EQ(health.outliers_6mad(), 2);
  EXPECT_EQ(health.outliers_9mad(), 1);
}

TEST(StepHealth, FewStepsJudgeNone) {
  StepHealth health = after_steps(19);
  health.add(50, 50);
  EXPECT_EQ(health.loss_spikes(), 0);
  health.add(50, 50);
  EXPECT_EQ(health.loss_spikes(), 1);
}

TEST(StepHealth, TheMedianFollowsTheLastHundredSteps) {
  StepHealth health = after_steps(100);
  for (int i = 0; i < 100; ++i)
    health.add(5, 1);  // spikes until most of the last hundred steps are like this
  EXPECT_GE(health.loss_spikes(), 49);
  EXPECT_LE(health.loss_spikes(), 52);
}

TEST(StepHealth, NumbersThatAreNotFiniteDoNotCount) {
  StepHealth health = after_steps(100);
  for (int i = 0; i < 100; ++i) health.add(NAN, INFINITY);
  health.add(2.13, 1.85);
  EXPECT_EQ(health.loss_spikes(), 1);
  EXPECT_EQ(health.outliers_6mad(), 1);
}

TEST(StepHealth, GoesOnFromItsText) {
  StepHealth one = after_steps(130);
  one.add(2.2, 1.0 / 3);
  StepHealth other = StepHealth::from_text(one.to_text());
  for (StepHealth* health : {&one, &other}) health->add(2.2, 1.9);
  EXPECT_EQ(one.to_text(), other.to_text());
  EXPECT_EQ(other.loss_spikes(), 2);
}

}  // namespace
}  // namespace headway
