#include "kernels/ops/adamw.h"

#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

class AdamWTest : public KernelTest {};

TEST_F(AdamWTest, ThreeStepsMatchThePublishedAlgorithm) {
  for (const int64_t n : {1, 100, 40001}) {
    SCOPED_TRACE(n);
    const double lr = 1e-2, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1, grad_scale = 0.5;
    const auto start = random(n);
    const std::vector<std::vector<float>> gradients{random(n), random(n, 1e-3), random(n, 100)};
    const Output p({n}), m({n}), v({n});
    std::copy(start.begin(), start.end(), p.tensor().data<float>());
    m.tensor().fill_zero(*stream);
    v.tensor().fill_zero(*stream);
    const Tensor scale = Tensor::from<double>(std::array{grad_scale}, {1}, *stream);
    const Tensor none = Tensor::from<double>(std::array{-1.0}, {1}, *stream);
    for (int step = 1; step <= 3; ++step) {
      const Tensor gradient = tensor(gradients[step - 1], {n});
      const AdamWParameter<float> parameter{.p = p.tensor().view<float, 1>("p"),
                                            .m = m.tensor().view<float, 1>("m"),
                                            .v = v.tensor().view<float, 1>("v"),
                                            .grad = gradient.view<const float, 1>("grad"),
                                            .decay = decay};
      for (const Tensor& by : {scale, none})  // the second leaves everything as it is
        launch(AdamWUpdate<float>{.parameters = std::span(&parameter, 1),
                                  .grad_scale = by.view<const double, 1>("grad_scale"),
                                  .lr = lr,
                                  .beta1 = beta1,
                                  .beta2 = beta2,
                                  .eps = eps,
                                  .correction1 = 1 - std::pow(beta1, step),
                                  .correction2 = 1 - std::pow(beta2, step)},
               *stream);
    }
    expect_close({&p, &m, &v}, [&]<class S>(S) {
      std::vector<S> ps(start.begin(), start.end()), ms(n), vs(n);
      for (int step = 1; step <= 3; ++step)
        for (int64_t i = 0; i < n; ++i) {
          const S g = S(grad_scale) * S(gradients[step - 1][i]);
          ps[i] -= S(lr * decay) * ps[i];
          ms[i] = S(beta1) * ms[i] + S(1 - beta1) * g;
          vs[i] = S(beta2) * vs[i] + S(1 - beta2) * g * g;
          const S m_hat = ms[i] / S(1 - std::pow(beta1, step)), v_hat = vs[i] / S(1 - std::pow(beta2, step));
          ps[i] -= S(lr) * m_hat / (std::sqrt(v_hat) + S(eps));
        }
      return Values<S>{ps, ms, vs};
    });
  }
}

class SumSquaresTest : public KernelTest {
 protected:
  Tensor run(const Tensor& x) {
    const Tensor sum = Tensor::empty({1}, DType::f64, Device{});
    for (const bool accumulate : {false, true})
      launch(
          SumSquares<float>{
              .x = x.view<const float, 1>("x"), .sum = sum.view<double, 1>("sum"), .accumulate = accumulate},
          *stream);
    return sum;
  }
};

TEST_F(SumSquaresTest, IsTakenInDouble) {
  for (const int64_t n : {1, 33, 100'003}) {
    const auto x = random(n, 1e25);  // the squares overflow a float
    double expected = 0;
    for (const float value : x) expected += 2 * double(value) * double(value);
    const double actual = run(tensor(x, {n})).data<double>()[0];
    EXPECT_LE(std::fabs(actual - expected), 1e-12 * expected) << n;
  }
}

TEST_F(SumSquaresTest, EqualBitsForAnyNumberOfThreads) {
  const Tensor x = tensor(random(300'001), {300'001});
  expect_equal_for_any_number_of_threads([&] { return std::vector{run(x)}; });
}

TEST_F(SumSquaresTest, ShowsOneBadElementAmongMany) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()})
    for (const int64_t at : {0, 77'777, 99'999}) {
      auto x = random(100'000);
      x[at] = bad;
      EXPECT_FALSE(std::isfinite(run(tensor(x, {100'000})).data<double>()[0])) << bad << " at " << at;
    }
}

}  // namespace
}  // namespace headway
