// The operations of compressed convolutional attention against central differences in float64.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "autograd/apply.h"
#include "autograd/gradcheck.h"
#include "autograd/ops/cca_prologue.h"
#include "autograd/ops/token_shift.h"
#include "core/backend.h"
#include "tests/support/seed.h"

namespace headway {
namespace {

class CcaOpsTest : public testing::Test {
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
    const GradCheck check = gradcheck(ctx, function, leaves);
    // Short rows have steep norms: the fifth derivative in the formula's error grows with 1 / |x|^5.
    EXPECT_TRUE(check.error <= 1e-8) << "error " << check.error << ": " << check.worst;
  }

 private:
  uint32_t next_ = 0;
  testing::ScopedTrace trace_{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed)};
};

// One and two tokens: there the biases reach the rows before token 0.
TEST_F(CcaOpsTest, Prologue) {
  struct Case {
    int64_t T, H, K, Dh, K0, K1;
    bool history, qk_mean;
    CcaTemperature temperature;
  };
  const auto exponential = CcaTemperature::exponential, linear = CcaTemperature::linear;
  for (const Case& c : {Case{5, 4, 2, 6, 2, 2, false, true, exponential},
                        {1, 4, 2, 6, 2, 2, false, true, linear},
                        {2, 2, 2, 8, 3, 2, false, true, exponential},
                        {6, 2, 1, 7, 2, 3, true, true, linear},
                        {1, 2, 1, 8, 3, 3, true, false, exponential},
                        {4, 2, 1, 8, 1, 1, false, false, linear}}) {
    SCOPED_TRACE("T " + std::to_string(c.T) + " Dh " + std::to_string(c.Dh));
    const int64_t B = 2, channels = (c.H + c.K) * c.Dh, past = c.K0 + c.K1 - 2;
    const Variable query = leaf({B, c.T, c.H, c.Dh}), key = leaf({B, c.T, c.K, c.Dh}),
                   conv_a = leaf({channels, c.K0}), conv_a_bias = leaf({channels}),
                   conv_b = leaf({c.H + c.K, c.Dh, c.Dh, c.K1}), conv_b_bias = leaf({channels}),
                   temperature = leaf({c.K}, 0.5);
    const Tensor query_history = c.history ? values({B, past, c.H, c.Dh}) : Tensor(),
                 key_history = c.history ? values({B, past, c.K, c.Dh}) : Tensor();
    const CcaPrologue::Config config{.temperature = c.temperature, .qk_mean = c.qk_mean};
    expect_gradients(
        {query, key, conv_a, conv_a_bias, conv_b, conv_b_bias, temperature}, [&](Context& context) {
          const auto [q, k] = apply<CcaPrologue>(context, config, query, key, conv_a, conv_a_bias, conv_b,
                                                 conv_b_bias, temperature, query_history, key_history);
          return std::vector{q, k};
        });
    // Keys alone: the gradient of the queries is absent, not wrong.
    expect_gradients({query, key, conv_b}, [&](Context& context) {
      return std::vector{apply<CcaPrologue>(context, config, query, key, conv_a, conv_a_bias, conv_b,
                                            conv_b_bias, temperature, query_history, key_history)[1]};
    });
  }
}

TEST_F(CcaOpsTest, TokenShift) {
  const Variable x = leaf({2, 4, 5});
  for (const int64_t first : {0, 2, 5})
    for (const Tensor& previous : {Tensor(), values({2, 1, 5})})
      expect_gradients({x}, [&](Context& context) {
        return std::vector{apply<headway::TokenShift>(context, {.first_shifted = first}, x, previous)};
      });
}

TEST_F(CcaOpsTest, TokenShiftDelaysTheLaterChannels) {
  const Tensor x = values({1, 3, 4}), previous = values({1, 1, 4});
  const Tensor y = apply<headway::TokenShift>(ctx, {.first_shifted = 2}, Variable(x), previous).value();
  const auto at = [](const Tensor& tensor, int64_t t, int64_t c) { return tensor.data<double>()[t * 4 + c]; };
  for (int64_t t = 0; t < 3; ++t)
    for (int64_t c = 0; c < 4; ++c)
      EXPECT_EQ(at(y, t, c), c < 2 ? at(x, t, c) : t > 0 ? at(x, t - 1, c) : at(previous, 0, c));
  const Tensor start = apply<headway::TokenShift>(ctx, {.first_shifted = 2}, Variable(x), Tensor()).value();
  EXPECT_EQ(at(start, 0, 2), 0);
  EXPECT_EQ(at(start, 0, 3), 0);
}

}  // namespace
}  // namespace headway
