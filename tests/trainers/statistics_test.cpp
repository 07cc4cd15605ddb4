#include "trainers/report/statistics.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

namespace headway {
namespace {

// Closed forms for one and two degrees of freedom.
TEST(StudentT, TailsOfFewDegreesAreExact) {
  for (const double t : {0.0, 0.3, 1.0, 4.0, 60.0}) {
    EXPECT_NEAR(student_t_tail(t, 1), 1 - 2 * std::atan(t) / M_PI, 1e-14);
    EXPECT_NEAR(student_t_tail(-t, 2), 1 - t / std::sqrt(2 + t * t), 1e-14);
  }
}

// Two-sided 5 %, from the usual tables.
TEST(StudentT, QuantilesAreThoseOfTheTables) {
  const std::array<std::pair<int, double>, 8> table{{{1, 12.7062047},
                                                     {2, 4.30265273},
                                                     {3, 3.18244631},
                                                     {4, 2.77644511},
                                                     {5, 2.57058184},
                                                     {9, 2.26215716},
                                                     {30, 2.04227246},
                                                     {100, 1.98397152}}};
  for (const auto& [degrees, quantile] : table) {
    EXPECT_NEAR(student_t_quantile(0.05, degrees), quantile, 1e-7) << degrees;
    EXPECT_NEAR(student_t_tail(quantile, degrees), 0.05, 1e-9) << degrees;
  }
}

// Student's own data (Biometrika 6, 1908): hours of sleep gained with one drug over another, ten patients.
TEST(PairedDifferences, StudentsSleepData) {
  const std::vector<double> gains{1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4};
  const PairedDifference d = paired_difference(gains);
  EXPECT_EQ(d.difference.count, 10);
  EXPECT_NEAR(d.difference.mean, 1.58, 1e-12);
  EXPECT_NEAR(d.difference.mean / (d.difference.deviation / std::sqrt(10.0)), 4.0621277, 1e-6);
  EXPECT_NEAR(d.low, 0.7001142, 1e-6);
  EXPECT_NEAR(d.high, 2.4598858, 1e-6);
  EXPECT_NEAR(d.p, 0.0028329, 1e-6);
}

TEST(PairedDifferences, OnePairHasNoIntervalAndNoneHasNoMean) {
  const PairedDifference one = paired_difference(std::array{0.25});
  EXPECT_EQ(one.difference.mean, 0.25);
  EXPECT_TRUE(std::isnan(one.low) && std::isnan(one.high) && std::isnan(one.p));
  EXPECT_TRUE(std::isnan(paired_difference({}).difference.mean));
}

TEST(PairedDifferences, EqualDifferencesLeaveNoDoubt) {
  const PairedDifference apart = paired_difference(std::array{0.5, 0.5, 0.5});
  EXPECT_EQ(apart.low, 0.5);
  EXPECT_EQ(apart.high, 0.5);
  EXPECT_EQ(apart.p, 0);
  EXPECT_EQ(paired_difference(std::array{0.0, 0.0}).p, 1);
}

TEST(Holm, CorrectsInTheOrderOfTheValues) {
  EXPECT_EQ(holm(std::array{0.5, 0.75}), (std::vector{1.0, 1.0}));  // never above 1
  const std::vector<double> corrected = holm(std::array{0.01, 0.04, 0.03, 0.005});
  const std::array expected{0.03, 0.06, 0.06, 0.02};
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(corrected[i], expected[i], 1e-15) << i;
}

TEST(Holm, ARunWithoutAValueIsNoTest) {
  const std::vector<double> corrected = holm(std::array{0.02, double{NAN}, 0.03});
  EXPECT_NEAR(corrected[0], 0.04, 1e-15);
  EXPECT_TRUE(std::isnan(corrected[1]));
  EXPECT_NEAR(corrected[2], 0.04, 1e-15);
}

}  // namespace
}  // namespace headway
