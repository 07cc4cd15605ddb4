#include "kernels/ops/norm_rope.h"

#include "tests/kernels/kernel_test.h"
#include "tests/support/cosines_and_sines.h"

namespace headway {
namespace {

constexpr double kEps = 1e-5;

class NormRopeTest : public KernelTest {
 protected:
  struct Results {
    Tensor y, inverse, dx, dweight;
  };
  // Forward, then backward twice, so that dweight is overwritten once and added to once.
  void run(const Tensor& x, const Tensor& weight, const Tensor& table, const Tensor& dy, const Results& out) {
    launch(NormRopeForward<float>{.eps = kEps,
                                  .x = x.view<const float, 4>("x"),
                                  .weight = weight.view<const float, 1>("weight"),
                                  .table = table.optional_view<const float, 3>("table"),
                                  .y = out.y.view<float, 4>("y"),
                                  .inverse = out.inverse.view<float, 1>("inverse")},
           *stream);
    for (const bool accumulate : {false, true})
      launch(NormRopeBackward<float>{.dy = dy.view<const float, 4>("dy"),
                                     .x = x.view<const float, 4>("x"),
                                     .weight = weight.view<const float, 1>("weight"),
                                     .table = table.optional_view<const float, 3>("table"),
                                     .inverse = out.inverse.view<const float, 1>("inverse"),
                                     .dx = out.dx.view<float, 4>("dx"),
                                     .dweight = out.dweight.view<float, 1>("dweight"),
                                     .accumulate_weight = accumulate},
             *stream);
  }
};

// The backward pass as sums over the Jacobian, which shares no step with the kernel's formula.
TEST_F(NormRopeTest, MatchesThePlainLoop) {
  const Shape sizes[] = {
      {1, 1, 1, 2, 2}, {2, 3, 1, 6, 4}, {2, 5, 3, 16, 16}, {1, 40, 4, 33, 16}, {2, 7, 2, 9, 0}};
  for (const Shape& size : sizes) {
    SCOPED_TRACE(size.to_string());
    const int64_t b = size[0], t = size[1], h = size[2], D = size[3], half = size[4] / 2, n = b * t * h;
    const auto x = random(n * D, 3), weight = random(D), dy = random(n * D),
               table = cosines_and_sines(random(t * half, 3));
    const Output y({b, t, h, D}), inverse({n}), dx({b, t, h, D}), dweight({D});
    run(tensor(x, {b, t, h, D}), tensor(weight, {D}), half > 0 ? tensor(table, {t, half, 2}) : Tensor(),
        tensor(dy, {b, t, h, D}), {y.tensor(), inverse.tensor(), dx.tensor(), dweight.tensor()});
    expect_close({&y, &inverse, &dx, &dweight}, [&]<class S>(S) {
      std::vector<S> ys(n * D), inverses(n), dxs(n * D), dweights(D);
      for (int64_t row = 0; row < n; ++row) {
        const auto turned = [&](std::vector<S> v, S direction) {
          for (int64_t i = 0; i < half; ++i) {
            const int64_t at = (row / h % t * half + i) * 2;
            const S c = S(table[at]), s = direction * S(table[at + 1]), u = v[i], w = v[i + half];
            v[i] = u * c - w * s, v[i + half] = w * c + u * s;
          }
          return v;
        };
        S squares = 0;
        for (int64_t d = 0; d < D; ++d) squares += S(x[row * D + d]) * S(x[row * D + d]);
        const S r = inverses[row] = 1 / std::sqrt(squares / S(D) + S(kEps));
        std::vector<S> normed(D), g(D);
        for (int64_t d = 0; d < D; ++d) {
          normed[d] = S(x[row * D + d]) * r * S(weight[d]);
          g[d] = S(dy[row * D + d]);
        }
        normed = turned(normed, S(1)), g = turned(g, S(-1));
        for (int64_t d = 0; d < D; ++d) {
          ys[row * D + d] = normed[d];
          dweights[d] += 2 * g[d] * S(x[row * D + d]) * r;
          // d normed_e / d x_d = weight_e (r [e = d] - x_e x_d r^3 / D)
          for (int64_t e = 0; e < D; ++e) {
            const S jacobian = (e == d ? r : S(0)) - S(x[row * D + e]) * S(x[row * D + d]) * r * r * r / S(D);
            dxs[row * D + d] += g[e] * S(weight[e]) * jacobian;
          }
        }
      }
      return Values<S>{ys, inverses, dxs, dweights};
    });
  }
}

TEST_F(NormRopeTest, RefusesSizesThatDoNotFit) {
  const Tensor x = tensor(random(2 * 3 * 8), {1, 2, 3, 8}), weight = tensor(random(8), {8}),
               inverse = tensor(random(6), {6}), short_weight = tensor(random(7), {7}),
               table = tensor(random(3 * 4 * 2), {3, 4, 2}), dweight = tensor(random(8), {8});
  EXPECT_THROW(run(x, short_weight, Tensor(), x, {x, inverse, x, dweight}), ShapeError);
  EXPECT_THROW(run(x, weight, table, x, {x, inverse, x, dweight}), ShapeError);  // three tokens, not two
}

}  // namespace
}  // namespace headway
