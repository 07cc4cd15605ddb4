#include "kernels/cpu/vector_math.h"

#include <gtest/gtest.h>

#include <limits>

namespace headway {
namespace {

TEST(VectorExp, IsWithinTwoUnitsInTheLastPlace) {
  double worst = 0;
  for (float x = -86.98f; x < 88.72f; x += 0.000917f) {
    const double exact = std::exp(static_cast<double>(x));
    const float nearest = static_cast<float>(exact);
    const double unit =
        static_cast<double>(std::nextafter(nearest, HUGE_VALF)) - static_cast<double>(nearest);
    worst = std::max(worst, std::abs(static_cast<double>(vector_exp(x)) - exact) / unit);
  }
  EXPECT_LE(worst, 2);
}

TEST(VectorExp, HandlesTheEndsOfTheRange) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(vector_exp(0.0f), 1.0f);
  EXPECT_EQ(vector_exp(-kInfinity), 0.0f);
  EXPECT_EQ(vector_exp(-87.0f), 0.0f);
  EXPECT_EQ(vector_exp(kInfinity), kInfinity);
  EXPECT_EQ(vector_exp(89.0f), kInfinity);
  EXPECT_TRUE(std::isfinite(vector_exp(88.72f)));
  EXPECT_TRUE(std::isnan(vector_exp(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace
}  // namespace headway
