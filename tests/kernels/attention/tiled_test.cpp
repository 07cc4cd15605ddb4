// The tiled CPU kernels against the oracle, for every variant.
#include "kernels/cpu/attention/softmax_tiled.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cstring>

#include "tests/kernels/attention/cases.h"
#include "tests/support/tolerance.h"

namespace headway::testing {
namespace {

// T and Tk around the tile size and the switch to the reference, head widths off the vector length, one head,
// groups, queries behind a cache, values wider and narrower than keys.
constexpr Dims kShapes[] = {
    {.B = 1, .T = 1, .H = 1, .K = 1, .Dh = 1},
    {.B = 2, .T = 8, .H = 3, .K = 1, .Dh = 5},
    {.B = 1, .T = 64, .H = 2, .K = 2, .Dh = 64},
    {.B = 2, .T = 65, .H = 4, .K = 2, .Dh = 33},
    {.B = 1, .T = 200, .H = 2, .K = 1, .Dh = 96},
    {.B = 1, .T = 1, .H = 4, .K = 2, .Dh = 16, .Tk = 130, .query_offset = 129},
    {.B = 2, .T = 37, .H = 2, .K = 1, .Dh = 16, .Tk = 150, .query_offset = 113},
    {.B = 1, .T = 90, .H = 1, .K = 1, .Dh = 8, .Tk = 70},
    {.B = 1, .T = 70, .H = 2, .K = 1, .Dh = 9, .Dv = 37},
    {.B = 1, .T = 5, .H = 2, .K = 2, .Dh = 16, .Tk = 66, .query_offset = 61, .Dv = 3},
};

template <class V, class T>
Results tiled_results(const Problem<V, T>& p, Stream& stream) {
  return run<V, T>(p, softmax_tiled_forward<V, T>, softmax_tiled_backward<V, T>, stream);
}
template <class V, class T>
Results reference_results(const Problem<V, T>& p, Stream& stream) {
  return run<V, T>(p, softmax_reference_forward<Exact<T>, V, T>, softmax_reference_backward<Exact<T>, V, T>,
                   stream);
}

template <class T>
bool equal_bits(const Tensor& a, const Tensor& b) {
  return a.numel() == b.numel() && std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

template <class V>
class Tiled : public ::testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
};
TYPED_TEST_SUITE(Tiled, AllVariants);

TYPED_TEST(Tiled, FloatErrsNoMoreThanNaiveFloat) {
  for (const Dims& dims : kShapes) {
    const auto exact_problem = random_problem<TypeParam>(dims, *this->stream);
    const auto float_problem = in_float(exact_problem, *this->stream);
    const Results oracle = reference_results(exact_problem, *this->stream);
    const Results naive = reference_results(float_problem, *this->stream);
    const Results tiled = tiled_results(float_problem, *this->stream);
    for (const auto& [name, exact] : oracle.tensors) {
      const auto reference = exact.template to_vector<double>(*this->stream);
      const Error yardstick =
          error_of<float, double>(naive[name].template to_vector<float>(*this->stream), reference);
      const Error error =
          error_of<float, double>(tiled[name].template to_vector<float>(*this->stream), reference);
      if (kDividesScale<TypeParam> && error.magnitude == 0) {
        // The gradients of a single key: but for the rounding of the row that its scale is divided out of.
        EXPECT_LE(error.largest, 1e-6);
        continue;
      }
      EXPECT_TRUE(within<float>(error, yardstick))
          << name << " at T = " << dims.T << ", Dh = " << dims.Dh << ": largest " << error.largest << ", rms "
          << error.rms << "; naive " << yardstick.largest << ", " << yardstick.rms;
    }
  }
}

TYPED_TEST(Tiled, DoubleEqualsTheOracle) {
  for (const Dims& dims : kShapes) {
    const auto p = random_problem<TypeParam>(dims, *this->stream);
    const Results oracle = reference_results(p, *this->stream), tiled = tiled_results(p, *this->stream);
    for (const auto& [name, exact] : oracle.tensors) {
      const Error error = error_of<double, double>(tiled[name].template to_vector<double>(*this->stream),
                                                   exact.template to_vector<double>(*this->stream));
      // Sums of up to 200 terms of either sign in another order, differences of nearly equal row sums.
      EXPECT_TRUE(error.rms <= 1000 * std::numeric_limits<double>::epsilon())
          << name << " at T = " << dims.T << ", Dh = " << dims.Dh << ": " << error.rms;
    }
  }
}

TYPED_TEST(Tiled, LaunchesAndThreadCountsGiveEqualBits) {
  const auto p = in_float(
      random_problem<TypeParam>({.B = 2, .T = 130, .H = 4, .K = 2, .Dh = 20}, *this->stream), *this->stream);
  const int threads = omp_get_max_threads();
  const Results first = tiled_results(p, *this->stream);
  for (const int n : {threads, 1, 3}) {
    omp_set_num_threads(n);
    const Results again = tiled_results(p, *this->stream);
    for (const auto& [name, tensor] : first.tensors)
      EXPECT_TRUE(equal_bits<float>(tensor, again[name])) << name << " with " << n << " threads";
  }
  omp_set_num_threads(threads);
}

TYPED_TEST(Tiled, LaterTokensDoNotReachEarlierRows) {
  const Dims dims{.B = 1, .T = 150, .H = 2, .K = 1, .Dh = 16};
  auto p = in_float(random_problem<TypeParam>(dims, *this->stream), *this->stream);
  const Results before = tiled_results(p, *this->stream);
  for (const int64_t changed : {149, 100, 64, 3}) {
    for (const Tensor& x : {p.q, p.k, p.v}) {
      const Tensor token = x.slice(1, changed, changed + 1);
      for (int64_t i = 0; i < token.numel(); ++i) token.template data<float>()[i] += 1;
    }
    const Results after = tiled_results(p, *this->stream);
    for (const char* name : {"o", "dq"})
      EXPECT_TRUE(equal_bits<float>(before[name].slice(1, 0, changed), after[name].slice(1, 0, changed)))
          << name;
    for (const char* name : {"log_sum_exp", "drow_scale", "drow_bias"}) {
      if (!before.contains(name)) continue;
      for (int64_t h = 0; h < dims.H; ++h)
        EXPECT_TRUE(equal_bits<float>(before[name].slice(1, h, h + 1).slice(2, 0, changed),
                                      after[name].slice(1, h, h + 1).slice(2, 0, changed)))
            << name;
    }
  }
}

TYPED_TEST(Tiled, KeysAfterTheLastGradientGetNone) {
  const Dims dims{.B = 1, .T = 150, .H = 2, .K = 1, .Dh = 16};
  auto p = in_float(random_problem<TypeParam>(dims, *this->stream), *this->stream);
  constexpr int64_t kLast = 70;
  const Tensor rest = p.dout.slice(1, kLast + 1, dims.T);
  std::fill_n(rest.template data<float>(), rest.numel(), 0.0f);
  const Results results = tiled_results(p, *this->stream);
  for (const char* name : {"dq", "dk", "dv"}) {
    const Tensor zeros = results[name].slice(1, kLast + 1, dims.T);
    for (int64_t i = 0; i < zeros.numel(); ++i)
      ASSERT_EQ(zeros.template data<float>()[i], 0) << name << " element " << i;
  }
}

class TiledCase : public ::testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
};

TEST_F(TiledCase, RowsWithoutKeysAreZero) {
  // A document's first token sees nothing; row 0 of the mask below sees nothing either.
  const auto documents =
      in_float(random_problem<Documents>({.B = 1, .T = 70, .H = 2, .K = 1, .Dh = 8}, *stream), *stream);
  const Results results = tiled_results(documents, *stream);
  for (int64_t t = 0; t < 70; t += params_of<Documents>().length)
    for (int64_t h = 0; h < 2; ++h) {
      EXPECT_EQ((results["log_sum_exp"].view<float, 3>("lse")(0, h, t)),
                -std::numeric_limits<float>::infinity());
      for (int64_t d = 0; d < 8; ++d) {
        EXPECT_EQ((results["o"].view<float, 4>("o")(0, t, h, d)), 0);
        EXPECT_EQ((results["dq"].view<float, 4>("dq")(0, t, h, d)), 0);
      }
    }
  auto masked = random_problem<attention::KeyMasked>({.B = 1, .T = 70, .H = 2, .K = 1, .Dh = 8}, *stream);
  masked.key_end = Tensor::from<int32_t>(std::vector<int32_t>(70, 0), {1, 1, 70}, *stream);
  const Results none = tiled_results(in_float(masked, *stream), *stream);
  for (const auto& [name, tensor] : none.tensors)
    for (const float value : tensor.to_vector<float>(*stream))
      ASSERT_EQ(value,
                std::string_view(name) == "log_sum_exp" ? -std::numeric_limits<float>::infinity() : 0.0f)
          << name;
}

TEST_F(TiledCase, QueriesBehindACacheEqualTheWholeSequence) {
  const Dims dims{.B = 2, .T = 140, .H = 4, .K = 2, .Dh = 16};
  const auto whole = random_problem<attention::SlidingWindow>(dims, *stream);
  const Tensor expected = tiled_results(whole, *stream)["o"];
  for (const int64_t offset : {139, 100, 7}) {
    auto part = whole;
    part.dims.T = dims.T - offset;
    part.dims.query_offset = offset;
    part.q = whole.q.slice(1, offset, dims.T);
    part.dout = random_tensor({dims.B, part.dims.T, dims.H, dims.Dh}, 9, *stream);
    const auto o = tiled_results(part, *stream)["o"].view<double, 4>("o");
    const auto all = expected.view<double, 4>("o");
    for (int64_t b = 0; b < dims.B; ++b)
      for (int64_t t = 0; t < part.dims.T; ++t)
        for (int64_t h = 0; h < dims.H; ++h)
          for (int64_t d = 0; d < dims.Dh; ++d)
            ASSERT_NEAR(o(b, t, h, d), all(b, offset + t, h, d),
                        100 * std::numeric_limits<double>::epsilon());
  }
}

TEST_F(TiledCase, ListingEveryRowEqualsTheDenseKernel) {
  const Dims dims{.B = 1, .T = 100, .H = 2, .K = 1, .Dh = 16};
  auto listed = in_float(random_problem<attention::ListedRows>(dims, *stream), *stream);
  std::vector<int32_t> rows(200);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i % 100);
  listed.row_index = Tensor::from<int32_t>(rows, {1, 2, 100}, *stream);
  listed.row_scale = Tensor::from<float>(std::vector<float>(200, 1.0f), {1, 2, 100}, *stream);
  listed.params.window = 0;
  const auto plain = in_float(random_problem<attention::Plain>(dims, *stream), *stream);
  const Results a = tiled_results(listed, *stream), b = tiled_results(plain, *stream);
  for (const char* name : {"o", "log_sum_exp", "dq", "dk", "dv"})
    EXPECT_TRUE(equal_bits<float>(a[name], b[name])) << name;
}

// In the sequences of the reference kernel and in those of the tiled one.
TEST_F(TiledCase, AKeyThatIsNoNumberReachesEveryRowThatSeesIt) {
  for (const int64_t length : {1, 5, 70, 130}) {
    const int64_t at = length / 2;
    auto p = random_problem<attention::Plain>({.B = 1, .T = length, .H = 1, .K = 1, .Dh = 8}, *stream);
    p.k.view<double, 4>("k")(0, at, 0, 3) = std::numeric_limits<double>::quiet_NaN();
    const Results results = tiled_results(in_float(p, *stream), *stream);
    const auto o = results["o"].view<float, 4>("o");
    const auto lse = results["log_sum_exp"].view<float, 3>("lse");
    for (int64_t t = 0; t < length; ++t) {
      EXPECT_EQ(std::isnan(lse(0, 0, t)), t >= at) << "row " << t << " of " << length;
      for (int64_t d = 0; d < 8; ++d) EXPECT_EQ(std::isnan(o(0, t, 0, d)), t >= at) << t << " of " << length;
    }
  }
}

TEST_F(TiledCase, LargeScoresStayFinite) {
  auto p = random_problem<attention::Plain>({.B = 1, .T = 130, .H = 1, .K = 1, .Dh = 8}, *stream);
  for (int64_t i = 0; i < 130 * 8; ++i) p.q.slice(1, i / 8, i / 8 + 1).data<double>()[i % 8] *= 1000;
  const Results results = tiled_results(in_float(p, *stream), *stream);
  for (const auto& [name, tensor] : results.tensors)
    for (const float value : tensor.to_vector<float>(*stream)) ASSERT_TRUE(std::isfinite(value)) << name;
}

}  // namespace
}  // namespace headway::testing
