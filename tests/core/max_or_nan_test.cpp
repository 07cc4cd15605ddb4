#include "core/max_or_nan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace headway {
namespace {

TEST(MaxOrNan, KeepsANumberThatIsNone) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(max_or_nan(1.0, 2.0), 2);
  EXPECT_EQ(max_or_nan(2.0, 1.0), 2);
  EXPECT_TRUE(std::isnan(max_or_nan(nan, 1.0)));
  EXPECT_TRUE(std::isnan(max_or_nan(1.0, nan)));
}

}  // namespace
}  // namespace headway
