#include "kernels/ops/hedgehog_map.h"

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

using Features = HedgehogFeatures;

class HedgehogMapTest : public KernelTest {
 protected:
  static constexpr Features kAll[] = {Features::softmax, Features::exp, Features::expmax, Features::joint};

  std::vector<float> map(Features features, const std::vector<float>& u, int64_t Df) {
    const int64_t N = static_cast<int64_t>(u.size()) / Df;
    const Tensor rows = tensor(u, {N, Df});
    const Output y({N, 2 * Df});
    launch(
        HedgehogMapForward<float>{
            .features = features, .u = rows.view<const float, 2>("u"), .y = y.tensor().view<float, 2>("y")},
        *stream);
    return y.tensor().to_vector<float>(*stream);
  }
};

TEST_F(HedgehogMapTest, MatchesThePlainLoop) {
  const Shape sizes[] = {{1, 1}, {3, 2}, {70, 33}, {300, 64}};
  for (const Shape& size : sizes)
    for (const Features features : kAll) {
      SCOPED_TRACE(size.to_string() + " map " + std::to_string(static_cast<int>(features)));
      const int64_t N = size[0], Df = size[1];
      const auto u = random(N * Df, 2), dy = random(2 * N * Df);
      const Tensor u_tensor = tensor(u, {N, Df}), dy_tensor = tensor(dy, {N, 2 * Df});
      const Output y({N, 2 * Df}), du({N, Df});
      launch(HedgehogMapForward<float>{.features = features,
                                       .u = u_tensor.view<const float, 2>("u"),
                                       .y = y.tensor().view<float, 2>("y")},
             *stream);
      launch(HedgehogMapBackward<float>{.features = features,
                                        .y = y.tensor().view<const float, 2>("y"),
                                        .dy = dy_tensor.view<const float, 2>("dy"),
                                        .du = du.tensor().view<float, 2>("du")},
             *stream);
      std::vector<const Output*> outputs{&y};
      // Over a single number a softmax is constant: its gradient is what rounding leaves.
      if (Df > 1) outputs.push_back(&du);
      expect_close(
          outputs,
          [&]<class S>(S) {
            std::vector<S> ys(2 * N * Df), dus(N * Df);
            for (int64_t n = 0; n < N; ++n) {
              const float* const row = u.data() + n * Df;
              S* const f = ys.data() + 2 * n * Df;
              const S scale = features == Features::joint ? S(2) : S(1);
              const int64_t top = std::max_element(row, row + Df) - row,
                            bottom = std::min_element(row, row + Df) - row;
              const bool shifted = features == Features::expmax;
              const S up = shifted ? S(row[top]) : S(0), down = shifted ? S(row[bottom]) : S(0);
              S plus = 0, minus = 0;
              for (int64_t i = 0; i < Df; ++i) {
                plus += f[i] = std::exp(scale * S(row[i]) - up);
                minus += f[Df + i] = std::exp(down - scale * S(row[i]));
              }
              const bool joint = features == Features::joint, softmax = features == Features::softmax;
              for (int64_t i = 0; i < Df; ++i) {
                f[i] /= joint ? plus + minus : softmax ? plus : S(1);
                f[Df + i] /= joint ? plus + minus : softmax ? minus : S(1);
              }
              // The Jacobian of each map, written out.
              const float* const d = dy.data() + 2 * n * Df;
              for (int64_t i = 0; i < Df; ++i) {
                S sum = 0;
                for (int64_t j = 0; j < Df; ++j) {
                  const S same = i == j ? S(1) : S(0);
                  const S is_top = shifted && i == top ? S(1) : S(0),
                          is_bottom = shifted && i == bottom ? S(1) : S(0);
                  if (softmax) {
                    sum += S(d[j]) * f[j] * (same - f[i]) - S(d[Df + j]) * f[Df + j] * (same - f[Df + i]);
                  } else if (joint) {
                    sum += 2 * S(d[j]) * f[j] * (same - f[i] + f[Df + i]);
                    sum -= 2 * S(d[Df + j]) * f[Df + j] * (same - f[Df + i] + f[i]);
                  } else {
                    sum += S(d[j]) * f[j] * (same - is_top) + S(d[Df + j]) * f[Df + j] * (is_bottom - same);
                  }
                }
                dus[n * Df + i] = sum;
              }
            }
            Values<S> values{ys};
            if (Df > 1) values.push_back(dus);
            return values;
          },
          1);  // gradients of few channels cancel: terms of unit size
    }
}

TEST_F(HedgehogMapTest, NormalisedMapsStandLargeInputs) {
  const int64_t N = 40, Df = 16;
  const auto u = random(N * Df, 150);
  for (const Features features : {Features::softmax, Features::expmax, Features::joint})
    for (const float value : map(features, u, Df)) EXPECT_TRUE(value >= 0 && value <= 1) << value;
}

// So that a pair of rows weighs between 0 and 2, and t tokens together no more than 2 t.
TEST_F(HedgehogMapTest, SoftmaxHalvesSumToOne) {
  const int64_t N = 40, Df = 16;
  const auto y = map(Features::softmax, random(N * Df, 20), Df);
  for (int64_t half = 0; half < 2 * N; ++half) {
    double sum = 0;
    for (int64_t i = 0; i < Df; ++i) sum += static_cast<double>(y[half * Df + i]);
    EXPECT_NEAR(sum, 1, 1e-6);
  }
}

TEST_F(HedgehogMapTest, SoftmaxFeaturesDoNotSeeACommonShift) {
  const int64_t N = 5, Df = 8;
  auto u = random(N * Df);
  const auto before = map(Features::softmax, u, Df);
  for (float& value : u) value += 4;
  const auto after = map(Features::softmax, u, Df);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(before[i], after[i], 2e-6);
}

TEST_F(HedgehogMapTest, EqualBitsForAnyNumberOfThreads) {
  const int64_t N = 700, Df = 32;
  const Tensor u = tensor(random(N * Df), {N, Df}), dy = tensor(random(2 * N * Df), {N, 2 * Df});
  expect_equal_for_any_number_of_threads([&] {
    const std::vector<Tensor> out{Tensor::empty({N, 2 * Df}, DType::f32, Device{}),
                                  Tensor::empty({N, Df}, DType::f32, Device{})};
    launch(HedgehogMapForward<float>{.u = u.view<const float, 2>("u"), .y = out[0].view<float, 2>("y")},
           *stream);
    launch(HedgehogMapBackward<float>{.y = out[0].view<const float, 2>("y"),
                                      .dy = dy.view<const float, 2>("dy"),
                                      .du = out[1].view<float, 2>("du")},
           *stream);
    return out;
  });
}

}  // namespace
}  // namespace headway
