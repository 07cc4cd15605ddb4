#include "kernels/ops/matmul.h"

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

class MatmulTest : public KernelTest {
 protected:
  // scale op(A) op(B) + C0, with A stored [K,M] and B stored [N,K] where transposed; C0 may be empty.
  template <class S>
  static std::vector<S> product(const std::vector<float>& a, const std::vector<float>& b,
                                const std::vector<float>& c0, const Shape& mnk, bool a_transposed,
                                bool b_transposed, S scale) {
    const int64_t m = mnk[0], n = mnk[1], k = mnk[2];
    std::vector<S> c(static_cast<size_t>(m * n));
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        S sum = 0;
        for (int64_t l = 0; l < k; ++l)
          sum += S(a[a_transposed ? l * m + i : i * k + l]) * S(b[b_transposed ? j * k + l : l * n + j]);
        c[i * n + j] = scale * sum + (c0.empty() ? S(0) : S(c0[i * n + j]));
      }
    return c;
  }
  Tensor factor(const std::vector<float>& values, int64_t rows, int64_t columns, bool transposed) {
    return transposed ? tensor(values, {columns, rows}).transpose(0, 1) : tensor(values, {rows, columns});
  }
};

// The factors are standard normal numbers, and an element of a small product may be far smaller than its
// terms.
constexpr double kTerms = 1;

TEST_F(MatmulTest, AllTransposesAndOddSizes) {
  const Shape sizes[] = {{1, 1, 1}, {1, 7, 5},  {5, 1, 7},   {7, 5, 1},     {1, 1, 9},
                         {3, 4, 5}, {17, 1, 1}, {1, 33, 17}, {65, 31, 129}, {128, 96, 64}};
  for (const Shape& mnk : sizes)
    for (const bool a_transposed : {false, true})
      for (const bool b_transposed : {false, true})
        for (const bool accumulate : {false, true}) {
          SCOPED_TRACE(mnk.to_string());
          const int64_t m = mnk[0], n = mnk[1], k = mnk[2];
          const auto a = random(m * k), b = random(k * n);
          const auto c0 = accumulate ? random(m * n) : std::vector<float>{};
          const Tensor a_tensor = factor(a, m, k, a_transposed), b_tensor = factor(b, k, n, b_transposed);
          const Tensor scale = tensor(std::vector{0.75f}, {1});
          const Output c({m, n});
          std::copy(c0.begin(), c0.end(), c.tensor().data<float>());
          launch(Matmul<float>{.a = a_tensor.view<const float, 2>("a"),
                               .b = b_tensor.view<const float, 2>("b"),
                               .c = c.tensor().view<float, 2>("c"),
                               .bias = {},
                               .scale = scale.view<const float, 1>("scale"),
                               .accumulate = accumulate},
                 *stream);
          expect_close(
              {&c},
              [&]<class S>(S) {
                return Values<S>{product<S>(a, b, c0, mnk, a_transposed, b_transposed, S(0.75))};
              },
              kTerms);
        }
}

TEST_F(MatmulTest, BiasIsAddedToEveryRow) {
  const int64_t m = 5, n = 19, k = 23;
  const auto x = random(m * k), weight = random(n * k), bias = random(n);
  const Tensor x_tensor = tensor(x, {m, k}), weight_tensor = factor(weight, k, n, true),
               bias_tensor = tensor(bias, {n});
  const Output y({m, n});
  launch(Matmul<float>{.a = x_tensor.view<const float, 2>("x"),
                       .b = weight_tensor.view<const float, 2>("weight"),
                       .c = y.tensor().view<float, 2>("y"),
                       .bias = bias_tensor.view<const float, 1>("bias"),
                       .scale = {}},
         *stream);
  expect_close({&y}, [&]<class S>(S) {
    std::vector<S> c = product<S>(x, weight, {}, {m, n, k}, false, true, S(1));
    for (int64_t i = 0; i < m * n; ++i) c[i] += S(bias[i % n]);
    return Values<S>{c};
  });
}

TEST_F(MatmulTest, BatchesOfInterleavedRows) {
  // y[r,h,:] = W[h] x[r,h,:] + bias[h]: rows of all heads lie between each other.
  const int64_t R = 6, H = 3, n = 4, k = 5;
  const auto x = random(R * H * k), weight = random(H * n * k), bias = random(H * n);
  const Tensor x_tensor = tensor(x, {R, H * k}), weight_tensor = tensor(weight, {H * n, k}),
               bias_tensor = tensor(bias, {H * n});
  const Output y({R, H * n});
  launch(Matmul<float>{.a = x_tensor.slice(1, 0, k).view<const float, 2>("x"),
                       .b = weight_tensor.slice(0, 0, n).transpose(0, 1).view<const float, 2>("weight"),
                       .c = y.tensor().slice(1, 0, n).view<float, 2>("y"),
                       .bias = bias_tensor.slice(0, 0, n).view<const float, 1>("bias"),
                       .scale = {},
                       .batch = {.count = H, .a = k, .b = n * k, .c = n, .bias = n}},
         *stream);
  expect_close(
      {&y},
      [&]<class S>(S) {
        std::vector<S> c(static_cast<size_t>(R * H * n));
        for (int64_t r = 0; r < R; ++r)
          for (int64_t h = 0; h < H; ++h)
            for (int64_t i = 0; i < n; ++i) {
              S sum = S(bias[h * n + i]);
              for (int64_t l = 0; l < k; ++l)
                sum += S(weight[(h * n + i) * k + l]) * S(x[(r * H + h) * k + l]);
              c[(r * H + h) * n + i] = sum;
            }
        return Values<S>{c};
      },
      kTerms);
}

TEST_F(MatmulTest, BiasTogetherWithAccumulationIsRefused) {
  const Tensor one = tensor(std::vector{1.0f}, {1, 1}), bias = tensor(std::vector{1.0f}, {1});
  EXPECT_THROW(launch(Matmul<float>{.a = one.view<const float, 2>("a"),
                                    .b = one.view<const float, 2>("b"),
                                    .c = one.view<float, 2>("c"),
                                    .bias = bias.view<const float, 1>("bias"),
                                    .scale = {},
                                    .accumulate = true},
                      *stream),
               ShapeError);
}

TEST_F(MatmulTest, StridedFactorsAndResult) {
  // y[:, 3:8] = x[:, 2:6] W[1:5, 3:8], everything a part of a larger tensor.
  const auto x = random(6 * 9), weight = random(7 * 11);
  const Tensor x_part = tensor(x, {6, 9}).slice(1, 2, 6);
  const Tensor weight_part = tensor(weight, {7, 11}).slice(0, 1, 5).slice(1, 3, 8);
  const Output y({6, 10});
  launch(Matmul<float>{.a = x_part.view<const float, 2>("x"),
                       .b = weight_part.view<const float, 2>("weight"),
                       .c = y.tensor().slice(1, 3, 8).view<float, 2>("y"),
                       .bias = {},
                       .scale = {}},
         *stream);
  const auto values = y.tensor().to_vector<float>(*stream);
  for (int64_t i = 0; i < 6; ++i)
    for (int64_t j = 0; j < 10; ++j) {
      if (j < 3 || j >= 8) {
        EXPECT_TRUE(std::isnan(values[i * 10 + j]));
        continue;
      }
      double sum = 0, magnitude = 0;
      for (int64_t l = 0; l < 4; ++l) {
        const double term = double(x[i * 9 + 2 + l]) * double(weight[(1 + l) * 11 + j]);
        sum += term, magnitude += std::fabs(term);
      }
      EXPECT_LE(std::fabs(double(values[i * 10 + j]) - sum), 4 * 0x1p-23 * magnitude);
    }
}

TEST_F(MatmulTest, WrongShapesAreOneSentence) {
  const Tensor a = tensor(random(6), {2, 3});
  try {
    launch(Matmul<float>{.a = a.view<const float, 2>("a"),
                         .b = a.view<const float, 2>("b"),
                         .c = a.view<float, 2>("c"),
                         .bias = {},
                         .scale = {}},
           *stream);
    FAIL();
  } catch (const ShapeError& error) {
    EXPECT_STREQ(error.what(), "matmul: [2, 3] times [2, 3] does not give [2, 3]");
  }
}

class ColumnSumTest : public KernelTest {
 protected:
  void run(const Tensor& x, const Tensor& sum, bool accumulate) {
    launch(
        ColumnSum<float>{
            .x = x.view<const float, 2>("x"), .sum = sum.view<float, 1>("sum"), .accumulate = accumulate},
        *stream);
  }
};

TEST_F(ColumnSumTest, OverwritesThenAccumulates) {
  for (const auto& [n, d] : {std::pair<int64_t, int64_t>{1, 1}, {1, 300}, {1000, 1}, {37, 129}, {2111, 17}}) {
    SCOPED_TRACE((Shape{n, d}.to_string()));
    const auto x = random(n * d);
    const Tensor x_tensor = tensor(x, {n, d});
    const Output sum({d});
    run(x_tensor, sum.tensor(), false);
    run(x_tensor, sum.tensor(), true);
    expect_close({&sum}, [&]<class S>(S) {
      std::vector<S> sums(static_cast<size_t>(d));
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < d; ++j) sums[j] += S(x[i * d + j]);
      for (S& value : sums) value += value;
      return Values<S>{sums};
    });
  }
}

TEST_F(ColumnSumTest, EqualBitsForAnyNumberOfThreads) {
  const Tensor x = tensor(random(3000 * 70), {3000, 70});
  expect_equal_for_any_number_of_threads([&] {
    const Tensor sum = Tensor::empty({70}, DType::f32, Device{});
    run(x, sum, false);
    return std::vector{sum};
  });
}

}  // namespace
}  // namespace headway
