#include "kernels/ops/argmax.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

TEST(ArgmaxRows, TakesTheFirstOfEqualNumbersAndTellsOfNan) {
  const auto stream = cpu_backend().make_stream();
  constexpr float kInf = std::numeric_limits<float>::infinity(),
                  kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> values{1, 3, 2, 3, -1, -1, -2, -5, -kInf, -kInf, -kInf, -kInf, 0, kNan, 9, 1};
  const Tensor x = Tensor::from<float>(values, {4, 4}, *stream),
               column = Tensor::empty({4}, DType::i32, Device{});
  launch(ArgmaxRows<float>{.x = x.view<const float, 2>("x"), .column = column.view<int32_t, 1>("column")},
         *stream);
  EXPECT_EQ(column.to_vector<int32_t>(*stream), (std::vector<int32_t>{1, 0, 0, -1}));
}

}  // namespace
}  // namespace headway
