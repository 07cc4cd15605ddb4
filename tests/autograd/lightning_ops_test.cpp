// The operations of Lightning against central differences in float64.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "autograd/apply.h"
#include "autograd/engine.h"
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
        [&](Context& c) {
          return std::vector{apply<headway::Lrpe>(c, {.positions = {.first = offset}}, x, theta)};
        },
        1e-8);
}

// <y_p, y'_s> = sum over channels of x x' cos(theta (p - s)), wherever the first token stands.
TEST_F(LightningOpsTest, LrpeProductsSeeTheDistance) {
  const int64_t T = 9, Dh = 5;
  const Variable q = leaf({1, T, 1, Dh}), k = leaf({1, T, 1, Dh}), theta = leaf({1, Dh});
  for (const int64_t offset : {0, 1000}) {
    const Tensor rq = apply<headway::Lrpe>(ctx, {.positions = {.first = offset}}, q, theta).value(),
                 rk = apply<headway::Lrpe>(ctx, {.positions = {.first = offset}}, k, theta).value();
    for (int64_t t = 0; t < T; ++t)
      for (int64_t s = 0; s < T; ++s) {
        double expected = 0, actual = 0;
        for (int64_t m = 0; m < Dh; ++m)
          expected += q.value().data<double>()[t * Dh + m] * k.value().data<double>()[s * Dh + m] *
                      std::cos(theta.value().data<double>()[m] * static_cast<double>(t - s));
        for (int64_t m = 0; m < 2 * Dh; ++m)
          actual += rq.data<double>()[t * 2 * Dh + m] * rk.data<double>()[s * 2 * Dh + m];
        // Angles of up to some thousands keep 1e-12.
        EXPECT_TRUE(std::abs(actual - expected) <= 1e-11) << t << " " << s;
      }
  }
}

// Without eps a factor of a row cancels, so that its gradient is orthogonal to it.
TEST_F(LightningOpsTest, TheNormDoesNotSeeTheScaleOfARow) {
  const int64_t N = 6, D = 7;
  const Variable x = leaf({N, D}), weight = leaf({D}), gate = leaf({N, D});
  const GatedNorm::Config config{.activation = GateActivation::sigmoid, .eps = 1e-30};
  ctx.recording = true;
  const Variable y = apply<headway::GatedNorm>(ctx, config, x, weight, gate);
  const Tensor dy = leaf({N, D}).value();
  backward(ctx, std::span(&y, 1), std::span(&dy, 1), MicroStep::last);
  ctx.recording = false;
  const Tensor scaled = x.value().clone(*stream);
  for (int64_t row = 0; row < N; ++row) {
    double along = 0, terms = 0;
    for (int64_t c = 0; c < D; ++c) {
      const double term = x.value().data<double>()[row * D + c] * x.grad().data<double>()[row * D + c];
      along += term, terms += std::abs(term);
      scaled.data<double>()[row * D + c] *= std::pow(10.0, static_cast<double>(row - 3));
    }
    EXPECT_TRUE(std::abs(along) <= 1e-13 * (terms + 1)) << row;
  }
  const Tensor other = apply<headway::GatedNorm>(ctx, config, Variable(scaled), weight, gate).value();
  for (int64_t i = 0; i < N * D; ++i) {
    const double expected = y.value().data<double>()[i];
    EXPECT_TRUE(std::abs(other.data<double>()[i] - expected) <= 1e-13 * std::abs(expected)) << i;
  }
}

}  // namespace
}  // namespace headway
