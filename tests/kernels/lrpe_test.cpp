#include "kernels/ops/lrpe.h"

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

class LrpeTest : public KernelTest {};

TEST_F(LrpeTest, MatchesThePlainLoop) {
  for (const Shape& size : {Shape{1, 1, 1, 1}, Shape{2, 5, 3, 7}, Shape{2, 130, 2, 32}}) {
    SCOPED_TRACE(size.to_string());
    const int64_t B = size[0], L = size[1], H = size[2], Dh = size[3], width = H * Dh, offset = 3;
    const Shape wide{B, L, H, 2 * Dh};
    const auto x = random(size.numel()), dy = random(2 * size.numel()), theta = random(width);
    const Tensor x_tensor = tensor(x, size), dy_tensor = tensor(dy, wide),
                 theta_tensor = tensor(theta, {H, Dh});
    const Output y(wide), dx(size), dtheta({width});
    launch(LrpeForward<float>{.x = x_tensor.view<const float, 4>("x"),
                              .theta = theta_tensor.view<const float, 2>("theta"),
                              .positions = {.first = offset},
                              .y = y.tensor().view<float, 4>("y")},
           *stream);
    // Twice, so that dtheta is overwritten once and added to once.
    for (const bool accumulate : {false, true})
      launch(LrpeBackward<float>{.dy = dy_tensor.view<const float, 4>("dy"),
                                 .x = x_tensor.view<const float, 4>("x"),
                                 .theta = theta_tensor.view<const float, 2>("theta"),
                                 .positions = {.first = offset},
                                 .dx = dx.tensor().view<float, 4>("dx"),
                                 .dtheta = dtheta.tensor().view<float, 1>("dtheta"),
                                 .accumulate_theta = accumulate},
             *stream);
    expect_close({&y, &dx, &dtheta}, [&]<class S>(S) {
      std::vector<S> ys(2 * size.numel()), dxs(size.numel()), dthetas(width);
      for (int64_t row = 0; row < B * L * H; ++row) {
        const int64_t t = row / H % L, h = row % H;
        for (int64_t m = 0; m < Dh; ++m) {
          const S p = S(offset + t), value = S(x[row * Dh + m]);
          const S c = std::cos(p * S(theta[h * Dh + m])), s = std::sin(p * S(theta[h * Dh + m]));
          const S dc = S(dy[row * 2 * Dh + m]), ds = S(dy[row * 2 * Dh + Dh + m]);
          ys[row * 2 * Dh + m] = value * c;
          ys[row * 2 * Dh + Dh + m] = value * s;
          dxs[row * Dh + m] = c * dc + s * ds;
          dthetas[h * Dh + m] += 2 * p * value * (c * ds - s * dc);
        }
      }
      return Values<S>{ys, dxs, dthetas};
    });
  }
}

// One radian more or less would show: the angle of position a million is formed in double.
TEST_F(LrpeTest, FarPositionsKeepTheirPhase) {
  const int64_t offset = 1000000;
  const Tensor x = tensor(std::vector{1.0f}, {1, 1, 1, 1}), theta = tensor(std::vector{0.7f}, {1, 1});
  const Output y({1, 1, 1, 2});
  launch(LrpeForward<float>{.x = x.view<const float, 4>("x"),
                            .theta = theta.view<const float, 2>("theta"),
                            .positions = {.first = offset},
                            .y = y.tensor().view<float, 4>("y")},
         *stream);
  const double angle = static_cast<double>(offset) * static_cast<double>(0.7f);
  const auto values = y.tensor().to_vector<float>(*stream);
  EXPECT_NEAR(values[0], std::cos(angle), 1e-7);
  EXPECT_NEAR(values[1], std::sin(angle), 1e-7);
}

}  // namespace
}  // namespace headway
