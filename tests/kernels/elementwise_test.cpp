#include "kernels/ops/elementwise.h"

#include "kernels/ops/accumulate.h"
#include "tests/kernels/kernel_test.h"

namespace headway {
namespace {

class ElementwiseTest : public KernelTest {};

TEST_F(ElementwiseTest, AddSumsElements) {
  for (const int64_t n : {1, 77, 40003}) {
    const auto a = random(n), b = random(n);
    const Tensor a_tensor = tensor(a, {n}), b_tensor = tensor(b, {n});
    const Output y({n});
    launch(AddForward<float>{.a = a_tensor.view<const float, 1>("a"),
                             .b = b_tensor.view<const float, 1>("b"),
                             .y = y.tensor().view<float, 1>("y")},
           *stream);
    expect_close({&y}, [&]<class S>(S) {
      std::vector<S> sums(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) sums[i] = S(a[i]) + S(b[i]);
      return Values<S>{sums};
    });
  }
}

TEST_F(ElementwiseTest, ScaleMultipliesElements) {
  constexpr double kFactor = 27.712812921102035;
  for (const int64_t n : {1, 77, 40003}) {
    const auto x = random(n);
    const Tensor x_tensor = tensor(x, {n});
    const Output y({n});
    launch(
        ScaleForward<float>{
            .x = x_tensor.view<const float, 1>("x"), .y = y.tensor().view<float, 1>("y"), .factor = kFactor},
        *stream);
    expect_close({&y}, [&]<class S>(S) {
      std::vector<S> products(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) products[i] = S(x[i]) * S(kFactor);
      return Values<S>{products};
    });
  }
}

TEST_F(ElementwiseTest, AccumulateOverwritesThenAdds) {
  const int64_t n = 40003;
  const auto from = random(n);
  const Tensor from_tensor = tensor(from, {n});
  const Output to({n});
  for (const bool overwrite : {true, false, false})
    launch(Accumulate<float, float>{.to = to.tensor().view<float, 1>("to"),
                                    .from = from_tensor.view<const float, 1>("from"),
                                    .overwrite = overwrite},
           *stream);
  expect_close({&to}, [&]<class S>(S) {
    std::vector<S> values(from.begin(), from.end());
    for (S& value : values) value *= 3;
    return Values<S>{values};
  });
}

class DropoutTest : public KernelTest {
 protected:
  void run(const Tensor& x, const Tensor& y, const RandomKey& key, double rate) {
    launch(
        DropoutMask<float>{
            .x = x.view<const float, 1>("x"), .y = y.view<float, 1>("y"), .key = key, .rate = rate},
        *stream);
  }
};

TEST_F(DropoutTest, KeepsExactlyTheElementsThatTheKeySelects) {
  for (const uint64_t first : {0, 1, 2, 3, 4, 1001})
    for (const int64_t n : {1, 2, 3, 4, 5, 255, 40001}) {
      SCOPED_TRACE(std::to_string(first) + " " + std::to_string(n));
      const auto x = random(n);
      const RandomKey key{seed, 5, 7, first};
      const Output y({n});
      run(tensor(x, {n}), y.tensor(), key, 0.3);
      y.expect_untouched_margins("y");
      for (int64_t i = 0; i < n; ++i) {
        const bool kept = uniform(key, static_cast<uint64_t>(i)) >= 0.3f;
        ASSERT_EQ(y.tensor().data<float>()[i], kept ? x[i] * static_cast<float>(1 / 0.7) : 0.0f) << i;
      }
    }
}

TEST_F(DropoutTest, KeepsTheMean) {
  const int64_t n = 200'000;
  const Tensor y = Tensor::empty({n}, DType::f32, Device{});
  run(tensor(std::vector<float>(n, 1.0f), {n}), y, {seed, 1, 1, 0}, 0.1);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(y.data<float>()[i]);
  // Six standard deviations of the mean of n scaled Bernoulli numbers.
  EXPECT_LE(std::fabs(sum / n - 1), 6 * std::sqrt(0.1 / 0.9 / n));
}

}  // namespace
}  // namespace headway
