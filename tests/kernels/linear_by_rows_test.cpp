#include "kernels/ops/linear_by_rows.h"

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

class LinearByRowsTest : public KernelTest {
 protected:
  /// Rows first .. end of x [M,stride], of which the first K channels count.
  std::vector<float> run(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t first,
                         int64_t end) {
    const Output y({end - first, weight.size(0)});
    launch(
        LinearByRows<float>{.x = x.slice(0, first, end).slice(1, 0, weight.size(1)).view<const float, 2>("x"),
                            .weight = weight.view<const float, 2>("weight"),
                            .bias = bias.optional_view<const float, 1>("bias"),
                            .y = y.tensor().view<float, 2>("y")},
        *stream);
    return y.tensor().to_vector<float>(*stream);
  }
};

constexpr double kTerms = 1;  // elements may be far smaller than their terms

TEST_F(LinearByRowsTest, OddSizesWithAndWithoutBias) {
  for (const auto& [m, n, k] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {1, 1, 1}, {3, 9, 5}, {7, 8, 33}, {8, 65, 17}, {49, 3, 64}, {500, 70, 19}})
    for (const bool has_bias : {false, true}) {
      SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
      const auto x = random(m * k), weight = random(n * k);
      const auto bias = has_bias ? random(n) : std::vector<float>{};
      const Tensor x_tensor = tensor(x, {m, k}), weight_tensor = tensor(weight, {n, k}),
                   bias_tensor = has_bias ? tensor(bias, {n}) : Tensor();
      const Output y({m, n});
      launch(LinearByRows<float>{.x = x_tensor.view<const float, 2>("x"),
                                 .weight = weight_tensor.view<const float, 2>("weight"),
                                 .bias = bias_tensor.optional_view<const float, 1>("bias"),
                                 .y = y.tensor().view<float, 2>("y")},
             *stream);
      expect_close(
          {&y},
          [&, m = m, n = n, k = k]<class S>(S) {
            std::vector<S> sums(static_cast<size_t>(m * n));
            for (int64_t i = 0; i < m * n; ++i) {
              for (int64_t l = 0; l < k; ++l) sums[i] += S(x[i / n * k + l]) * S(weight[i % n * k + l]);
              if (has_bias) sums[i] += S(bias[i % n]);
            }
            return Values<S>{sums};
          },
          kTerms);
    }
}

// The promise of the operation: neither the number of rows, nor a row's place among them, nor the threads
// matter.
TEST_F(LinearByRowsTest, ARowHasTheSameBitsInAnyCompany) {
  constexpr int64_t kRows = 530, kStride = 77;
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1, 77}, {6, 75}, {64, 64}, {131, 50}}) {
    SCOPED_TRACE(std::to_string(n) + " columns, " + std::to_string(k) + " terms");
    const Tensor x = tensor(random(kRows * kStride), {kRows, kStride}),
                 weight = tensor(random(n * k), {n, k}), bias = tensor(random(n), {n});
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    const std::vector<float> all = run(x, weight, bias, 0, kRows);
    for (const int64_t count : {1, 2, 7, 8, 9, 48, 100})
      for (const int64_t first : {int64_t{0}, int64_t{1}, int64_t{47}, kRows - count}) {
        omp_set_num_threads(count % 2 == 0 ? 3 : 1);
        const std::vector<float> some = run(x, weight, bias, first, first + count);
        EXPECT_EQ(std::memcmp(some.data(), all.data() + first * n, some.size() * sizeof(float)), 0)
            << count << " rows from " << first;
      }
    omp_set_num_threads(threads);
  }
}

}  // namespace
}  // namespace headway
