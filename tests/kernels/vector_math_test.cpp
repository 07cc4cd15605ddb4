#include "kernels/cpu/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
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

/// Largest error of a float function against the same in double, in units in the last place.
template <class Function, class Exact>
double worst_error(Function function, Exact exact, float from, float to, float factor, float step) {
  double worst = 0;
  for (float x = from; x < to; x = x * factor + step) {
    const double expected = exact(static_cast<double>(x));
    const float nearest = std::abs(static_cast<float>(expected));
    const double unit =
        static_cast<double>(std::nextafter(nearest, HUGE_VALF)) - static_cast<double>(nearest);
    worst = std::max(worst, std::abs(static_cast<double>(function(x)) - expected) / unit);
  }
  return worst;
}

TEST(VectorMath, LogarithmIsWithinTwoUnitsInTheLastPlace) {
  const auto function = [](float x) { return vector_log(x); };
  const auto exact = [](double x) { return std::log(x); };
  EXPECT_LE(worst_error(function, exact, 1.1755e-38f, 3e38f, 1.0007f, 0), 2);
  EXPECT_LE(worst_error(function, exact, 0.5f, 2.0f, 1, 1.3e-6f), 2);
  EXPECT_EQ(vector_log(1.0f), 0.0f);
  EXPECT_EQ(vector_log(HUGE_VALF), HUGE_VALF);
  EXPECT_TRUE(std::isnan(vector_log(std::numeric_limits<float>::quiet_NaN())));
}

TEST(VectorMath, HyperbolicTangentIsWithinFourUnitsInTheLastPlace) {
  const auto function = [](float x) { return vector_tanh(x); };
  const auto exact = [](double x) { return std::tanh(x); };
  EXPECT_LE(worst_error(function, exact, -12, 12, 1, 1.7e-5f), 4);
  EXPECT_LE(worst_error(function, exact, 1e-30f, 0.1f, 1.001f, 0), 4);
  EXPECT_EQ(vector_tanh(0.0f), 0.0f);
  EXPECT_EQ(vector_tanh(HUGE_VALF), 1.0f);
  EXPECT_EQ(vector_tanh(-HUGE_VALF), -1.0f);
  EXPECT_TRUE(std::isnan(vector_tanh(std::numeric_limits<float>::quiet_NaN())));
}

TEST(VectorMath, SineAndCosineOfSmallAnglesAreWithinTwoUnitsInTheLastPlace) {
  const float quarter = 0.7853982f;
  EXPECT_LE(worst_error([](float x) { return vector_sin_small(x); }, [](double x) { return std::sin(x); },
                        -quarter, quarter, 1, 1.1e-6f),
            2);
  EXPECT_LE(worst_error([](float x) { return vector_cos_small(x); }, [](double x) { return std::cos(x); },
                        -quarter, quarter, 1, 1.1e-6f),
            2);
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
