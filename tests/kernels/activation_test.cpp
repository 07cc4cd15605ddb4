#include "kernels/ops/activation.h"

#include <numbers>

#include "kernels/gate_activation.h"
#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

class ActivationTest : public KernelTest {
 protected:
  static constexpr int64_t kSizes[] = {1, 5, 63, 1000, 40001};
};

TEST_F(ActivationTest, SiluMatchesThePlainLoop) {
  for (const int64_t n : kSizes) {
    SCOPED_TRACE(n);
    auto x = random(n, 4), dy = random(n);
    x[0] = dy[0] = 1;  // errors are relative to the largest result
    const Tensor x_tensor = tensor(x, {n}), dy_tensor = tensor(dy, {n});
    const Output y({n}), dx({n});
    launch(SiluForward<float>{.x = x_tensor.view<const float, 1>("x"), .y = y.tensor().view<float, 1>("y")},
           *stream);
    launch(SiluBackward<float>{.dy = dy_tensor.view<const float, 1>("dy"),
                               .x = x_tensor.view<const float, 1>("x"),
                               .dx = dx.tensor().view<float, 1>("dx")},
           *stream);
    expect_close({&y, &dx}, [&]<class S>(S) {
      std::vector<S> ys(n), dxs(n);
      for (int64_t i = 0; i < n; ++i) {
        const S u = S(x[i]), s = 1 / (1 + std::exp(-u));
        ys[i] = u * s;
        dxs[i] = S(dy[i]) * s * (1 + u * (1 - s));
      }
      return Values<S>{ys, dxs};
    });
  }
}

TEST(GateActivation, SlopesAreCentralDifferences) {
  constexpr double kStep = 6e-6;  // cube root of the unit in the last place: error about kStep^2
  for (const GateActivation kind :
       {GateActivation::identity, GateActivation::sigmoid, GateActivation::ns_sigmoid, GateActivation::silu,
        GateActivation::exponential})
    for (double x = -4; x <= 2; x += 0.31) {
      const double difference = (activate(kind, x + kStep) - activate(kind, x - kStep)) / (2 * kStep);
      EXPECT_NEAR(activation_slope(kind, x), difference, 10 * kStep * kStep)
          << static_cast<int>(kind) << " at " << x;
    }
}

TEST_F(ActivationTest, SwiGluMatchesThePlainLoop) {
  for (const int64_t n : kSizes) {
    SCOPED_TRACE(n);
    auto gate = random(n, 4), up = random(n), dy = random(n);
    gate[0] = up[0] = dy[0] = 1;  // errors are relative to the largest result
    const Tensor gate_tensor = tensor(gate, {n}), up_tensor = tensor(up, {n}), dy_tensor = tensor(dy, {n});
    const Output y({n}), dgate({n}), dup({n});
    launch(SwiGluForward<float>{.gate = gate_tensor.view<const float, 1>("gate"),
                                .up = up_tensor.view<const float, 1>("up"),
                                .y = y.tensor().view<float, 1>("y")},
           *stream);
    launch(SwiGluBackward<float>{.dy = dy_tensor.view<const float, 1>("dy"),
                                 .gate = gate_tensor.view<const float, 1>("gate"),
                                 .up = up_tensor.view<const float, 1>("up"),
                                 .dgate = dgate.tensor().view<float, 1>("dgate"),
                                 .dup = dup.tensor().view<float, 1>("dup")},
           *stream);
    expect_close({&y, &dgate, &dup}, [&]<class S>(S) {
      std::vector<S> ys(n), dgates(n), dups(n);
      for (int64_t i = 0; i < n; ++i) {
        const S g = S(gate[i]), s = 1 / (1 + std::exp(-g));
        ys[i] = g * s * S(up[i]);
        dups[i] = S(dy[i]) * g * s;
        dgates[i] = S(dy[i]) * S(up[i]) * s * (1 + g * (1 - s));
      }
      return Values<S>{ys, dgates, dups};
    });
  }
}

TEST_F(ActivationTest, GeluIsTheTanhForm) {
  for (const int64_t n : kSizes) {
    SCOPED_TRACE(n);
    auto x = random(n, 3), dy = random(n);
    x[0] = dy[0] = 1;  // errors are relative to the largest result, which must not be near the zero of dx
    const Tensor x_tensor = tensor(x, {n}), dy_tensor = tensor(dy, {n});
    const Output y({n}), dx({n});
    launch(GeluForward<float>{.x = x_tensor.view<const float, 1>("x"), .y = y.tensor().view<float, 1>("y")},
           *stream);
    launch(GeluBackward<float>{.dy = dy_tensor.view<const float, 1>("dy"),
                               .x = x_tensor.view<const float, 1>("x"),
                               .dx = dx.tensor().view<float, 1>("dx")},
           *stream);
    expect_close({&y, &dx}, [&]<class S>(S) {
      std::vector<S> ys(n), dxs(n);
      const S c = std::sqrt(2 / std::numbers::pi_v<S>), cubic = S(0.044715);
      for (int64_t i = 0; i < n; ++i) {
        const S v = S(x[i]), t = std::tanh(c * (v + cubic * v * v * v));
        ys[i] = v * (1 + t) / 2;
        dxs[i] = S(dy[i]) * ((1 + t) / 2 + v * (1 - t * t) / 2 * c * (1 + 3 * cubic * v * v));
      }
      return Values<S>{ys, dxs};
    });
  }
}

TEST_F(ActivationTest, LargeArgumentsSaturateAndNanStaysNan) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const Tensor x = tensor(std::vector{-1e4f, -200.0f, 200.0f, 1e4f, nan}, {5}),
               ones = tensor(std::vector<float>(5, 1.0f), {5});
  const Output y({5}), dx({5}), gated({5});
  launch(GeluForward<float>{.x = x.view<const float, 1>("x"), .y = y.tensor().view<float, 1>("y")}, *stream);
  launch(GeluBackward<float>{.dy = ones.view<const float, 1>("dy"),
                             .x = x.view<const float, 1>("x"),
                             .dx = dx.tensor().view<float, 1>("dx")},
         *stream);
  launch(SwiGluForward<float>{.gate = x.view<const float, 1>("gate"),
                              .up = ones.view<const float, 1>("up"),
                              .y = gated.tensor().view<float, 1>("y")},
         *stream);
  const float expected_y[] = {0, 0, 200, 1e4f}, expected_dx[] = {0, 0, 1, 1};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(y.tensor().data<float>()[i], expected_y[i]) << i;
    EXPECT_EQ(dx.tensor().data<float>()[i], expected_dx[i]) << i;
    EXPECT_EQ(gated.tensor().data<float>()[i], expected_y[i]) << i;
    EXPECT_LT(std::fabs(y.tensor().data<float>()[i]), infinity);
  }
  EXPECT_TRUE(std::isnan(y.tensor().data<float>()[4]));
  EXPECT_TRUE(std::isnan(dx.tensor().data<float>()[4]));
  EXPECT_TRUE(std::isnan(gated.tensor().data<float>()[4]));
}

}  // namespace
}  // namespace headway
