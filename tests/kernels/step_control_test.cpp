#include "kernels/ops/step_control.h"

#include <limits>

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

class StepControlTest : public KernelTest {
 protected:
  static constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  /// The factor for a step's gradients.
  double scale_of(double loss, double squares) {
    const auto one = [&](double value) { return Tensor::from<double>(std::vector{value}, {1}, *stream); };
    launch(StepControl{.loss = one(loss).view<const double, 1>("loss"),
                       .squares = one(squares).view<const double, 1>("squares"),
                       .state = state.view<double, 1>("state"),
                       .max_norm = max_norm,
                       .limit = limit},
           *stream);
    return state.data<double>()[StepControl::grad_scale];
  }
  double number(StepControl::State which) const { return state.data<double>()[which]; }

  Tensor state = Tensor::zeros({StepControl::state_size}, DType::f64, *stream);
  double max_norm = 2, limit = 1;
};

TEST_F(StepControlTest, ClipsToTheLargestNorm) {
  EXPECT_EQ(scale_of(1, 1), 1);
  EXPECT_EQ(scale_of(1, 4), 1);
  EXPECT_EQ(scale_of(1, 64), 0.25);
  EXPECT_EQ(number(StepControl::norm), 8);
  max_norm = 0;
  EXPECT_EQ(scale_of(1, 64), 1);
  EXPECT_EQ(scale_of(1, 0), 1);
}

TEST_F(StepControlTest, ABadStepStopsAllThatFollow) {
  EXPECT_EQ(scale_of(kNan, 1), kNoUpdate);
  EXPECT_EQ(scale_of(1, 1), kNoUpdate) << "the host has not seen the bad step yet";
  EXPECT_EQ(number(StepControl::bad_in_a_row), 1);
}

TEST_F(StepControlTest, BadStepsAreSkippedUpToTheLimit) {
  limit = 3;
  EXPECT_EQ(scale_of(1, kInfinity), kNoUpdate);
  EXPECT_EQ(scale_of(-kInfinity, 1), kNoUpdate);
  EXPECT_EQ(scale_of(1, 1), 1) << "one good step, and the count begins anew";
  for (int i = 0; i < 3; ++i) EXPECT_EQ(scale_of(1, kNan), kNoUpdate);
  EXPECT_EQ(scale_of(1, 1), kNoUpdate);
}

TEST_F(StepControlTest, SumsAddWithTheirWeight) {
  const Tensor sum = Tensor::from<double>(std::vector{2.0}, {1}, *stream);
  for (const float value : {1.5f, 4.0f})
    launch(
        AddToSum{.value = Tensor::from<float>(std::vector{value}, {1}, *stream).view<const float, 1>("value"),
                 .sum = sum.view<double, 1>("sum"),
                 .weight = 0.5},
        *stream);
  EXPECT_EQ(sum.data<double>()[0], 4.75);
}

}  // namespace
}  // namespace headway
