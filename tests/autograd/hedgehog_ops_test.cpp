// The operations of Hedgehog against central differences in float64.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "autograd/apply.h"
#include "autograd/gradcheck.h"
#include "autograd/ops/head_linear.h"
#include "autograd/ops/hedgehog_map.h"
#include "core/backend.h"
#include "core/error.h"
#include "tests/support/seed.h"

namespace headway {
namespace {

class HedgehogOpsTest : public testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  const uint32_t seed = fresh_seed();
  Rng rng{seed};
  Context ctx{.stream = *stream, .rng = rng};

  Variable leaf(const Shape& shape) {
    return Variable::leaf(
        Tensor::from<double>(random_values<double>(shape.numel(), seed, next_++), shape, *stream));
  }
  void expect_gradients(const std::vector<Variable>& leaves, const CheckedFunction& function, double limit) {
    const GradCheck check = gradcheck(ctx, function, leaves);
    EXPECT_TRUE(check.error <= limit) << "error " << check.error << ": " << check.worst;
  }

 private:
  uint32_t next_ = 0;
  testing::ScopedTrace trace_{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed)};
};

TEST_F(HedgehogOpsTest, HedgehogMap) {
  const Variable u = leaf({2, 3, 2, 5});
  for (const HedgehogFeatures features :
       {HedgehogFeatures::softmax, HedgehogFeatures::exp, HedgehogFeatures::expmax, HedgehogFeatures::joint})
    expect_gradients(
        {u},
        [&](Context& c) { return std::vector{apply<headway::HedgehogMap>(c, {.features = features}, u)}; },
        1e-8);
}

TEST_F(HedgehogOpsTest, HeadLinear) {
  const Variable x = leaf({2, 3, 2, 5}), weight = leaf({2, 4, 5}), bias = leaf({2, 4});
  for (const bool biased : {false, true}) {
    const Variable b = biased ? bias : Variable();
    std::vector<Variable> leaves{x, weight};
    if (biased) leaves.push_back(b);
    expect_gradients(
        leaves, [&](Context& c) { return std::vector{apply<headway::HeadLinear>(c, {}, x, weight, b)}; },
        1e-9);
  }
  const Tensor y = apply<headway::HeadLinear>(ctx, {}, x, weight, bias).value();
  for (int64_t row = 0; row < 12; ++row)
    for (int64_t o = 0; o < 4; ++o) {
      const int64_t h = row % 2;
      double expected = bias.value().data<double>()[h * 4 + o];
      for (int64_t i = 0; i < 5; ++i)
        expected +=
            x.value().data<double>()[row * 5 + i] * weight.value().data<double>()[(h * 4 + o) * 5 + i];
      EXPECT_NEAR(y.data<double>()[row * 4 + o], expected, 1e-13);
    }
  EXPECT_THROW(apply<headway::HeadLinear>(ctx, {}, x, leaf({3, 4, 5}), Variable()), ShapeError);
}

}  // namespace
}  // namespace headway
