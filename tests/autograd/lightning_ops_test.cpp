// The operations of Lightning against central differences in float64.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "autograd/apply.h"
#include "autograd/gradcheck.h"
#include "autograd/ops/activation.h"
#include "autograd/ops/gated_norm.h"
#include "autograd/ops/lrpe.h"
#include "core/backend.h"
#include "tests/support/seed.h"

namespace headway {
namespace {

class LightningOpsTest : public testing::Test {
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

TEST_F(LightningOpsTest, Silu) {
  const Variable x = leaf({3, 5});
  expect_gradients(
      {x}, [&](Context& c) { return std::vector{apply<headway::Silu>(c, {}, x)}; }, 1e-9);
}

TEST_F(LightningOpsTest, GatedNorm) {
  const Variable x = leaf({2, 3, 7}), weight = leaf({7}), gate = leaf({2, 3, 7});
  for (const GateActivation activation : {GateActivation::identity, GateActivation::sigmoid})
    for (const bool weighted : {false, true})
      for (const bool gated : {false, true}) {
        const Variable w = weighted ? weight : Variable(), g = gated ? gate : Variable();
        std::vector<Variable> leaves{x};
        if (weighted) leaves.push_back(w);
        if (gated) leaves.push_back(g);
        expect_gradients(
            leaves,
            [&](Context& c) {
              return std::vector{
                  apply<headway::GatedNorm>(c, {.activation = activation, .eps = 1e-3}, x, w, g)};
            },
            1e-8);
      }
}

TEST_F(LightningOpsTest, Lrpe) {
  const Variable x = leaf({2, 5, 3, 4}), theta = leaf({3, 4});
  for (const int64_t offset : {0, 7})
    expect_gradients(
        {x, theta},
        [&](Context& c) { return std::vector{apply<headway::Lrpe>(c, {.offset = offset}, x, theta)}; }, 1e-8);
}

}  // namespace
}  // namespace headway
