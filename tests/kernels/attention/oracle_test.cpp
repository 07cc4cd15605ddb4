// The definition of the softmax core against central differences, and against itself where a slot is neutral.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/attention/softmax_reference.h"
#include "tests/kernels/attention/cases.h"
#include "tests/support/rounded_bf16.h"
#include "tests/support/tolerance.h"

namespace headway::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class V>
Results oracle(const Problem<V, double>& p, Stream& stream) {
  return run<V, double>(p, softmax_reference_forward<Exact<double>, V, double>,
                        softmax_reference_backward<Exact<double>, V, double>, stream);
}

template <class V>
class Oracle : public ::testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
};
TYPED_TEST_SUITE(Oracle, AllVariants);

TYPED_TEST(Oracle, GradientsAreTheCentralDifferences) {
  using V = TypeParam;
  // More keys than queries, an offset, groups of two query heads, and values wider than keys.
  const Problem<V, double> p = random_problem<V>(
      {.B = 2, .T = 7, .H = 4, .K = 2, .Dh = 3, .Tk = 10, .query_offset = 2, .Dv = 4}, *this->stream);
  const Results results = oracle(p, *this->stream);
  const auto loss = [&] {
    const Results now =
        run<V, double>(p, softmax_reference_forward<Exact<double>, V, double>, nullptr, *this->stream);
    double sum = 0;
    for (int64_t i = 0; i < p.dout.numel(); ++i)
      sum += now["o"].template data<double>()[i] * p.dout.template data<double>()[i];
    return sum;
  };
  // Truncation and rounding both cost about eps^(2/3) of a loss of some hundred terms of size one.
  const double step = std::cbrt(std::numeric_limits<double>::epsilon());
  const double limit = 100 * step * step;
  const auto expect_derivative = [&](const char* name, double& input, double gradient) {
    const double before = input;
    input = before + step;
    const double above = loss();
    input = before - step;
    const double below = loss();
    input = before;
    ASSERT_TRUE(std::abs(gradient - (above - below) / (2 * step)) <= limit)
        << name << ": " << gradient << " for " << (above - below) / (2 * step);
  };
  const auto check4 = [&](const char* name, const Tensor& x, const Tensor& gradient) {
    const auto values = x.view<double, 4>("x"), gradients = gradient.view<double, 4>("dx");
    for (int64_t b = 0; b < x.size(0); ++b)
      for (int64_t t = 0; t < x.size(1); ++t)
        for (int64_t h = 0; h < x.size(2); ++h)
          for (int64_t d = 0; d < x.size(3); ++d)
            ASSERT_NO_FATAL_FAILURE(expect_derivative(name, values(b, t, h, d), gradients(b, t, h, d)));
  };
  check4("q", p.q, results["dq"]);
  check4("k", p.k, results["dk"]);
  check4("v", p.v, results["dv"]);
  for_each_slot_with_gradient(
      [&]<class Slot>(Slot, const Tensor& slot) {
        if (!slot) return;
        const Tensor& gradient = results[std::string("d") + Slot::info.name];
        for (int64_t i = 0; i < slot.numel(); ++i)
          ASSERT_NO_FATAL_FAILURE(expect_derivative(Slot::info.name, slot.data<double>()[i],
                                                    gradient.template data<double>()[i]));
      },
      p);
}

TYPED_TEST(Oracle, RoundingOperandsCostsABf16Unit) {
  using V = TypeParam;
  const Problem<V, double> p = random_problem<V>({.B = 1, .T = 40, .H = 2, .K = 1, .Dh = 16}, *this->stream);
  const Results exact = oracle(p, *this->stream);
  const Results rounded =
      run<V, float>(in_float(p, *this->stream), softmax_reference_forward<RoundedBf16, V, float>,
                    softmax_reference_backward<RoundedBf16, V, float>, *this->stream);
  for (const char* name : {"o", "dq", "dk", "dv"}) {
    const Error error = error_of<float, double>(rounded[name].template to_vector<float>(*this->stream),
                                                exact[name].template to_vector<double>(*this->stream));
    EXPECT_GE(error.rms, 0x1p-12) << name;  // a bf16 unit is 2^-8: rounding must show
    EXPECT_LE(error.rms, 0x1p-5) << name;   // and stay a few units
  }
}

class OracleCase : public ::testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  static constexpr Dims kDims{.B = 2, .T = 9, .H = 4, .K = 2, .Dh = 4};

  /// But for the rounding of sums of few terms: a compiler fuses multiplications with additions in one
  /// variant's kernel and not in the other's.
  template <class V, class W>
  void expect_equal(const Problem<V, double>& p, const Problem<W, double>& plain) {
    constexpr double kTerms = 64, kUnit = std::numeric_limits<double>::epsilon();
    const Results a = oracle(p, *stream), b = oracle(plain, *stream);
    for (const char* name : {"o", "log_sum_exp", "dq", "dk", "dv"}) {
      const Error error =
          error_of<double, double>(a[name].to_vector<double>(*stream), b[name].to_vector<double>(*stream));
      EXPECT_LE(error.largest, kTerms * kUnit * error.magnitude) << name;
    }
  }
  Tensor filled(const Shape& shape, double value) {
    return Tensor::from<double>(std::vector<double>(static_cast<size_t>(shape.numel()), value), shape,
                                *stream);
  }
  Tensor filled_i32(const Shape& shape, int32_t value) {
    return Tensor::from<int32_t>(std::vector<int32_t>(static_cast<size_t>(shape.numel()), value), shape,
                                 *stream);
  }
};

TEST_F(OracleCase, NeutralSlotsEqualPlain) {
  const auto plain = random_problem<attention::Plain>(kDims, *stream);
  auto affine = random_problem<attention::RowAffine>(kDims, *stream);
  affine.params.window = 0;
  affine.row_scale = filled({2, 4, 9}, 1);
  affine.row_bias = filled({2, 4, 9}, 0);
  expect_equal(affine, plain);
  auto masked = random_problem<attention::KeyMasked>(kDims, *stream);
  masked.key_bias = filled({2, 2, 9}, 0);
  masked.key_end = filled_i32({2, 2, 9}, 9);
  expect_equal(masked, plain);
  auto sink = random_problem<attention::Sink>(kDims, *stream);
  sink.params.window = 0;
  sink.sink = filled({4}, -kInfinity);
  expect_equal(sink, plain);
  auto window = random_problem<attention::SlidingWindow>(kDims, *stream);
  window.params.window = 9;
  expect_equal(window, plain);
}

TEST_F(OracleCase, ConstantScoresGiveRunningMeans) {
  auto p = random_problem<attention::Plain>({.B = 1, .T = 5, .H = 1, .K = 1, .Dh = 2}, *stream);
  p.q = filled({1, 5, 1, 2}, 0);
  const Results results = oracle(p, *stream);
  const auto v = p.v.view<const double, 4>("v"), o = results["o"].view<const double, 4>("o");
  double sum = 0;
  for (int t = 0; t < 5; ++t) {
    sum += v(0, t, 0, 1);
    EXPECT_NEAR(o(0, t, 0, 1), sum / (t + 1), 1e-15);
    EXPECT_NEAR(results["log_sum_exp"].data<double>()[t], std::log(t + 1.0), 1e-15);
  }
}

TEST_F(OracleCase, SinkTakesItsShareOfEveryRow) {
  auto p = random_problem<attention::Sink>({.B = 1, .T = 3, .H = 1, .K = 1, .Dh = 2}, *stream);
  p.params.window = 0;
  p.q = filled({1, 3, 1, 2}, 0);
  p.sink = filled({1}, std::log(2.0));
  const Results results = oracle(p, *stream);
  const double v = p.v.view<const double, 4>("v")(0, 0, 0, 0);
  EXPECT_NEAR(results["o"].data<double>()[0], v / 3, 1e-15);
  EXPECT_NEAR(results["log_sum_exp"].data<double>()[0], std::log(3.0), 1e-15);
}

}  // namespace
}  // namespace headway::testing
