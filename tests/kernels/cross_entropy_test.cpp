#include "kernels/ops/cross_entropy.h"

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

constexpr double kScale = 0.125;

class CrossEntropyTest : public KernelTest {
 protected:
  void run(const Tensor& logits, const Tensor& targets, const Tensor& losses, bool write_gradient) {
    launch(CrossEntropy<float>{.logits = logits.view<float, 2>("logits"),
                               .targets = targets.view<const int32_t, 1>("targets"),
                               .losses = losses.view<float, 1>("losses"),
                               .scale = kScale,
                               .write_gradient = write_gradient},
           *stream);
  }
};

TEST_F(CrossEntropyTest, MatchesThePlainLoopAndIgnoresTargetsOfMinusOne) {
  const Shape sizes[] = {{1, 1}, {1, 2}, {9, 3}, {64, 257}, {3, 50257}, {333, 65}};
  for (const Shape& size : sizes)
    for (const bool write_gradient : {false, true}) {
      SCOPED_TRACE(size.to_string());
      const int64_t n = size[0], v = size[1];
      const auto values = random(n * v, 5);
      auto targets = random_ids(n, v);
      for (int64_t i = 1; i < n; i += 4) targets[i] = -1;
      const Output logits({n, v}), losses({n});
      std::copy(values.begin(), values.end(), logits.tensor().data<float>());
      run(logits.tensor(), tensor(targets, {n}), losses.tensor(), write_gradient);
      expect_close({&losses, &logits}, [&]<class S>(S) {
        std::vector<S> loss(n), gradient(values.begin(), values.end());
        for (int64_t i = 0; i < n; ++i) {
          S* row = gradient.data() + i * v;
          const S largest = *std::max_element(row, row + v);
          S sum = 0;
          for (int64_t j = 0; j < v; ++j) sum += std::exp(row[j] - largest);
          if (targets[i] >= 0) loss[i] = std::log(sum) + largest - row[targets[i]];
          if (!write_gradient) continue;
          for (int64_t j = 0; j < v; ++j)
            row[j] =
                targets[i] < 0 ? S(0) : S(kScale) * (std::exp(row[j] - largest) / sum - S(j == targets[i]));
        }
        return Values<S>{loss, gradient};
      });
    }
}

TEST_F(CrossEntropyTest, LargeLogitsDoNotOverflow) {
  const Output losses({2});
  const Tensor logits = tensor(std::vector{1e30f, 0.0f, -1e30f, 500.0f, 400.0f, 400.0f}, {2, 3}),
               targets = tensor(std::vector<int32_t>{0, 1}, {2});
  run(logits, targets, losses.tensor(), true);
  EXPECT_EQ(losses.tensor().data<float>()[0], 0);
  EXPECT_EQ(losses.tensor().data<float>()[1], 100);
  const float expected[] = {0, 0, 0, static_cast<float>(kScale), static_cast<float>(-kScale), 0};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(logits.data<float>()[i], expected[i]) << i;
}

TEST_F(CrossEntropyTest, NotANumberReachesTheLossWhereverItStands) {
  for (const int64_t v : {3, 40, 1000})
    for (int64_t at = 0; at < v; at += v / 3)
      for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()})
        for (const bool write_gradient : {false, true}) {
          auto values = random(v);
          values[at] = bad;
          const Output losses({1});
          run(tensor(values, {1, v}), tensor(std::vector<int32_t>{0}, {1}), losses.tensor(), write_gradient);
          EXPECT_FALSE(std::isfinite(losses.tensor().data<float>()[0])) << bad << " at " << at;
        }
}

TEST_F(CrossEntropyTest, SumsOfLossesAccumulate) {
  const int64_t n = 1001;
  const auto values = random(n);
  const Tensor values_tensor = tensor(values, {n});
  const Output sum({1});
  for (const bool accumulate : {false, true})
    launch(SumRows<float>{.values = values_tensor.view<const float, 1>("values"),
                          .sum = sum.tensor().view<float, 1>("sum"),
                          .scale = 0.5,
                          .accumulate = accumulate},
           *stream);
  expect_close({&sum}, [&]<class S>(S) {
    S total = 0;
    for (const float value : values) total += S(value);
    return Values<S>{{total}};
  });
}

}  // namespace
}  // namespace headway
