// The operations of compressed convolutional attention against central differences in float64.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "autograd/apply.h"
#include "autograd/engine.h"
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
  Variable constant(const Shape& shape, double value) {
    const std::vector<double> values(static_cast<size_t>(shape.numel()), value);
    return Variable(Tensor::from<double>(values, shape, *stream));
  }
  /// sum over the last dimension of x dx, and of its magnitudes, for row (b, t, h).
  struct Along {
    double sum = 0, terms = 0;
  };
  static Along along(const Tensor& x, const Tensor& dx, int64_t b, int64_t t, int64_t h) {
    Along result;
    const int64_t first = ((b * x.size(1) + t) * x.size(2) + h) * x.size(3);
    for (int64_t i = first; i < first + x.size(3); ++i) {
      const double term = x.data<double>()[i] * dx.data<double>()[i];
      result.sum += term, result.terms += std::abs(term);
    }
    return result;
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

// Queries and keys are of fixed length: a factor of a group's rows cancels where no bias stands beside it,
// and the temperature's gradient is that of a factor of the keys.
TEST_F(CcaOpsTest, FactorsOfRowsCancelAndThoseOfKeysAreTheTemperature) {
  const int64_t B = 2, T = 6, H = 4, K = 2, Dh = 5, channels = (H + K) * Dh;
  for (const auto kind : {CcaTemperature::exponential, CcaTemperature::linear}) {
    const Variable query = leaf({B, T, H, Dh}), key = leaf({B, T, K, Dh}), temperature = leaf({K}, 0.5);
    const Variable no_bias = constant({channels}, 0);
    ctx.recording = true;
    const auto [q, k] =
        apply<CcaPrologue>(ctx, {.temperature = kind}, query, key, leaf({channels, 2}), no_bias,
                           leaf({H + K, Dh, Dh, 2}), no_bias, temperature, Tensor(), Tensor());
    const std::vector<Variable> roots{q, k};
    const std::vector<Tensor> seeds{values(q.shape()), values(k.shape())};
    backward(ctx, roots, seeds, MicroStep::last);
    ctx.recording = false;
    for (int64_t g = 0; g < K; ++g) {
      double beta_gradient = 0, beta_terms = 0;
      for (int64_t b = 0; b < B; ++b) {
        Along total;
        const auto add = [&](const Along& part) { total.sum += part.sum, total.terms += part.terms; };
        for (int64_t t = 0; t < T; ++t) {
          add(along(key.value(), key.grad(), b, t, g));
          for (int64_t h = g * H / K; h < (g + 1) * H / K; ++h)
            add(along(query.value(), query.grad(), b, t, h));
          const Along of_key = along(k.value(), seeds[1], b, t, g);
          beta_gradient += of_key.sum, beta_terms += of_key.terms;
        }
        EXPECT_TRUE(std::abs(total.sum) <= 1e-9 * total.terms) << "sequence " << b << " group " << g;
      }
      // beta dL/dbeta
      const double factor = kind == CcaTemperature::linear ? temperature.value().data<double>()[g] : 1;
      const double actual = factor * temperature.grad().data<double>()[g];
      EXPECT_TRUE(std::abs(actual - beta_gradient) <= 1e-13 * beta_terms) << "group " << g;
    }
  }
}

// Convolutions that pass the row itself: then each row's gradient is orthogonal to it.
TEST_F(CcaOpsTest, GradientsOfRowsAreOrthogonalToThem) {
  const int64_t B = 2, T = 4, H = 4, K = 2, Dh = 5, channels = (H + K) * Dh;
  const Variable query = leaf({B, T, H, Dh}), key = leaf({B, T, K, Dh}),
                 identity = constant({H + K, Dh, Dh, 1}, 0), no_bias = constant({channels}, 0);
  for (int64_t c = 0; c < channels; ++c) identity.value().data<double>()[c * Dh + c % Dh] = 1;
  ctx.recording = true;
  const auto [q, k] = apply<CcaPrologue>(ctx, {.qk_mean = false}, query, key, constant({channels, 1}, 1),
                                         no_bias, identity, no_bias, leaf({K}, 0.5), Tensor(), Tensor());
  const std::vector<Variable> roots{q, k};
  const std::vector<Tensor> seeds{values(q.shape()), values(k.shape())};
  backward(ctx, roots, seeds, MicroStep::last);
  for (const Variable& x : {query, key})
    for (int64_t b = 0; b < B; ++b)
      for (int64_t t = 0; t < T; ++t)
        for (int64_t h = 0; h < x.size(2); ++h) {
          const Along row = along(x.value(), x.grad(), b, t, h);
          EXPECT_TRUE(std::abs(row.sum) <= 1e-9 * (row.terms + 1)) << t << " " << h;
        }
}

// Without convolutions the mean of equal queries and keys is what they were.
TEST_F(CcaOpsTest, EqualQueriesAndKeysAreTheirOwnMean) {
  const int64_t T = 4, H = 3, Dh = 5, channels = 2 * H * Dh;
  const Variable x = leaf({1, T, H, Dh}), zero = constant({channels}, 0), temperature = leaf({H}, 0.5);
  const auto [q, k] =
      apply<CcaPrologue>(ctx, {}, x, x, leaf({channels, 2}), leaf({channels}),
                         constant({2 * H, Dh, Dh, 2}, 0), zero, temperature, Tensor(), Tensor());
  for (int64_t row = 0; row < T * H; ++row) {
    double squares = 1e-12;
    for (int64_t d = 0; d < Dh; ++d) squares += std::pow(x.value().data<double>()[row * Dh + d], 2);
    const double beta = std::exp(temperature.value().data<double>()[row % H]);
    for (int64_t d = 0; d < Dh; ++d) {
      const double expected =
          std::sqrt(static_cast<double>(Dh) / squares) * x.value().data<double>()[row * Dh + d];
      EXPECT_NEAR(q.value().data<double>()[row * Dh + d], expected, 1e-13);
      EXPECT_NEAR(k.value().data<double>()[row * Dh + d], beta * expected, 1e-12);
    }
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
