// The operations of NaLaFormer against central differences in float64.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "autograd/apply.h"
#include "autograd/engine.h"
#include "autograd/gradcheck.h"
#include "autograd/ops/causal_conv.h"
#include "autograd/ops/last_rows.h"
#include "autograd/ops/norm_aware_map.h"
#include "core/backend.h"
#include "tests/support/seed.h"

namespace headway {
namespace {

using Map = NormAwareMapSettings::Map;
using Base = NormAwareMapSettings::Base;
using Phase = NormAwareMapSettings::Phase;

class NalaformerOpsTest : public testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  const uint32_t seed = fresh_seed();
  Rng rng{seed};
  Context ctx{.stream = *stream, .rng = rng};

  Tensor values(const Shape& shape, double scale = 1) {
    return Tensor::from<double>(random_values<double>(shape.numel(), seed, next_++, scale), shape, *stream);
  }
  Variable leaf(const Shape& shape, double scale = 1) { return Variable::leaf(values(shape, scale)); }
  void expect_gradients(const std::vector<Variable>& leaves, const CheckedFunction& function) {
    // The gradient of lambda is a sum that may nearly cancel.
    const GradCheck check = gradcheck(ctx, function, leaves);
    EXPECT_TRUE(check.error <= 1e-8) << "error " << check.error << ": " << check.worst;
  }

 private:
  uint32_t next_ = 0;
  testing::ScopedTrace trace_{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed)};
};

TEST_F(NalaformerOpsTest, CausalConv) {
  for (const bool silu : {false, true})
    for (const int64_t K : {1, 2, 4})
      for (const int64_t T : {1, 2, 6}) {
        SCOPED_TRACE("K " + std::to_string(K) + " T " + std::to_string(T));
        const Variable x = leaf({2, T, 3}), weight = leaf({3, K}), history = leaf({2, K - 1, 3});
        expect_gradients({x, weight}, [&](Context& c) {
          return std::vector{apply<headway::CausalConv>(c, {.silu = silu}, x, weight, Variable())};
        });
        if (K == 1) continue;
        expect_gradients({x, weight, history}, [&](Context& c) {
          return std::vector{apply<headway::CausalConv>(c, {.silu = silu}, x, weight, history)};
        });
      }
}

TEST_F(NalaformerOpsTest, LastRows) {
  for (const int64_t T : {1, 2, 3, 5}) {
    const Variable x = leaf({2, T, 3}), before = leaf({2, 3, 3});
    for (const Variable& history : {Variable(), before}) {
      const auto rows = [&](Context& c) {
        return std::vector{apply<headway::LastRows>(c, {.count = 3}, x, history)};
      };
      expect_gradients({x}, rows);
      if (history.defined()) expect_gradients({x, before}, rows);
      const Tensor y = rows(ctx)[0].value();
      for (int64_t b = 0; b < 2; ++b)
        for (int64_t i = 0; i < 3; ++i)
          for (int64_t c = 0; c < 3; ++c) {
            const int64_t t = T - 3 + i;  // negative: before x
            const double expected = t >= 0 ? x.value().data<double>()[(b * T + t) * 3 + c]
                                    : history.defined()
                                        ? before.value().data<double>()[(b * 3 + 3 + t) * 3 + c]
                                        : 0;
            EXPECT_EQ(y.data<double>()[(b * 3 + i) * 3 + c], expected);
          }
    }
  }
}

TEST_F(NalaformerOpsTest, NormAwareMap) {
  // Entries away from zero: there a power of 3 has derivatives of any size.
  const Variable x = leaf({2, 3, 2, 5}),
                 lambda = Variable::leaf(Tensor::from<double>(std::vector{3.0}, {1}, *stream));
  for (int64_t i = 0; i < x.value().numel(); ++i) {
    double& value = x.value().data<double>()[i];
    value += std::copysign(0.3, value);
  }
  for (const Map map : {Map::cosine, Map::relu_split})
    for (const Base base : {Base::row, Base::direction})
      for (const Phase phase : {Phase::tanh_direction, Phase::direction, Phase::tanh_row, Phase::none})
        for (const bool power_from_norm : {false, true}) {
          const NormAwareMapSettings settings{.map = map,
                                              .base = base,
                                              .phase = phase,
                                              .power_from_norm = power_from_norm,
                                              .lambda = 2.5,
                                              .norm_scale = 0.4,
                                              .direction_scale = 1.5};
          expect_gradients({x}, [&](Context& c) {
            return std::vector{apply<headway::NormAwareMap>(c, settings, x, Variable())};
          });
          expect_gradients({x, lambda}, [&](Context& c) {
            return std::vector{apply<headway::NormAwareMap>(c, settings, x, lambda)};
          });
        }
}

TEST_F(NalaformerOpsTest, ZeroEntriesAndZeroRowsHaveFiniteGradients) {
  const Tensor rows = values({3, 4});
  rows.data<double>()[1] = 0;
  for (int i = 8; i < 12; ++i) rows.data<double>()[i] = 0;
  for (const Map map : {Map::cosine, Map::relu_split})
    for (const bool query : {false, true}) {
      const Variable x = Variable::leaf(rows.clone(*stream));
      ctx.recording = true;
      const Variable y = apply<headway::NormAwareMap>(
          ctx, {.map = map, .base = query ? Base::direction : Base::row, .power_from_norm = query}, x,
          Variable());
      const Tensor dy = values({3, 8});
      backward(ctx, std::span(&y, 1), std::span(&dy, 1), MicroStep::last);
      for (const double g : x.grad().to_vector<double>(*stream)) EXPECT_TRUE(std::isfinite(g));
      for (int i = 8; i < 12; ++i) EXPECT_EQ(x.grad().data<double>()[i], 0);
      if (map == Map::relu_split && !query) {
        EXPECT_EQ(x.grad().data<double>()[1], 0);
      }
    }
}

}  // namespace
}  // namespace headway
