#include "kernels/ops/rope.h"

#include "tests/kernels/kernel_test.h"
#include "tests/support/cosines_and_sines.h"

namespace headway {
namespace {

class RopeTest : public KernelTest {
 protected:
  void run(const Tensor& x, const Tensor& table, const Tensor& y, bool inverse) {
    launch(RopeRotate<float>{.x = x.view<const float, 4>("x"),
                             .table = table.view<const float, 3>("table"),
                             .y = y.view<float, 4>("y"),
                             .inverse = inverse},
           *stream);
  }
  // Random angles; [T,R/2,2] cosine, sine.
  std::vector<float> random_table(int64_t t, int64_t half) { return cosines_and_sines(random(t * half, 3)); }
};

TEST_F(RopeTest, TurnsPairsHalfTheRotatedWidthApart) {
  const Shape sizes[] = {{1, 1, 1, 2, 2}, {2, 3, 1, 6, 4}, {2, 5, 3, 64, 64}, {1, 40, 4, 33, 16}};
  for (const Shape& size : sizes)
    for (const bool inverse : {false, true}) {
      SCOPED_TRACE(size.to_string());
      const int64_t b = size[0], t = size[1], h = size[2], dh = size[3], half = size[4] / 2;
      const auto x = random(b * t * h * dh), table = random_table(t, half);
      const Output y({b, t, h, dh});
      run(tensor(x, {b, t, h, dh}), tensor(table, {t, half, 2}), y.tensor(), inverse);
      expect_close({&y}, [&]<class S>(S) {
        std::vector<S> ys(x.begin(), x.end());
        for (int64_t row = 0; row < b * t * h; ++row)
          for (int64_t i = 0; i < half; ++i) {
            const int64_t angle = (row / h % t * half + i) * 2, first = row * dh + i, second = first + half;
            const S c = S(table[angle]), s = inverse ? -S(table[angle + 1]) : S(table[angle + 1]);
            ys[first] = S(x[first]) * c - S(x[second]) * s;
            ys[second] = S(x[second]) * c + S(x[first]) * s;
          }
        return Values<S>{ys};
      });
    }
}

TEST_F(RopeTest, InverseUndoesInPlace) {
  const auto x = random(2 * 7 * 3 * 16);
  const Tensor y = tensor(x, {2, 7, 3, 16}), table = tensor(random_table(7, 4), {7, 4, 2});
  run(y, table, y, false);
  run(y, table, y, true);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_LE(std::fabs(y.data<float>()[i] - x[i]), 8 * 0x1p-23);
}

}  // namespace
}  // namespace headway
