// Identities between inputs and gradients that hold whatever the inputs are: in double for the definition, in
// float for the tiled kernels. Those of Identity hold with every slot and every score; those of ScoreIdentity
// with every slot but need the score itself; those of RowIdentity are about the slots row_scale and sink.
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/cpu/attention/softmax_tiled.h"
#include "tests/kernels/attention/cases.h"
#include "tests/support/seed.h"

namespace headway::testing {
namespace {

/// Terms, and how large they are before they cancel.
struct Sum {
  double value = 0, magnitude = 0;
  void add(double term) {
    value += term;
    magnitude += std::abs(term);
  }
};
void expect_equal(const Sum& a, const Sum& b, double limit) {
  EXPECT_TRUE(std::abs(a.value - b.value) <= limit * (a.magnitude + b.magnitude))
      << a.value << " and " << b.value << ", sums of terms of " << a.magnitude << " and " << b.magnitude;
}

template <class V>
Results results_of(const Problem<V, double>& p, Stream& stream) {
  return run<V, double>(p, softmax_reference_forward<Exact<double>, V, double>,
                        softmax_reference_backward<Exact<double>, V, double>, stream);
}
template <class V>
Results results_of(const Problem<V, float>& p, Stream& stream) {
  return run<V, float>(p, softmax_tiled_forward<V, float>, softmax_tiled_backward<V, float>, stream);
}

template <class V>
class Identity : public ::testing::Test {
 protected:
  // Two tiles, groups of two query heads, queries behind a cache.
  static constexpr Dims kDims{.B = 2, .T = 70, .H = 4, .K = 2, .Dh = 8, .Tk = 75, .query_offset = 5};
  static constexpr int64_t kGroup = kDims.H / kDims.K;

  /// test(problem, its results, limit), in double and in float.
  template <class Test>
  void for_both(const Test& test) {
    const Problem<V, double> p = random_problem<V>(kDims, *stream, seed);
    {
      SCOPED_TRACE("definition in double");
      test(p, results_of<V>(p, *stream), 1e-13);
    }
    SCOPED_TRACE("tiles in float");
    const Problem<V, float> single = in_float(p, *stream);
    test(single, results_of<V>(single, *stream), 1e-5);
  }
  /// Products x y of sequence b and of the heads that group kv has: `heads` of them.
  template <class T>
  static void add_products(Sum& sum, const Tensor& x, const Tensor& y, int64_t b, int64_t kv, int64_t heads) {
    const auto left = x.view<const T, 4>("x"), right = y.view<const T, 4>("y");
    for (int64_t t = 0; t < x.size(1); ++t)
      for (int64_t h = kv * heads; h < (kv + 1) * heads; ++h)
        for (int64_t d = 0; d < kDims.Dh; ++d)
          sum.add(static_cast<double>(left(b, t, h, d)) * static_cast<double>(right(b, t, h, d)));
  }
  /// The gradient's part along the output, r_i G_i.Y_i = G_i.O_i - beta_i G_i.C_i: no unscaled row is needed.
  template <class T>
  static Sum row_dot(const Problem<V, T>& p, const Results& results, int64_t b, int64_t h, int64_t t) {
    Sum sum;
    const auto g = p.dout.template view<const T, 4>("dout"), o = results["o"].template view<const T, 4>("o");
    for (int64_t d = 0; d < kDims.Dh; ++d)
      sum.add(static_cast<double>(g(b, t, h, d)) * static_cast<double>(o(b, t, h, d)));
    if constexpr (has(V::slots, Slots::row_bias))
      sum.add(-static_cast<double>(p.slots().row_bias(b, h, t)) *
              static_cast<double>(results["drow_bias"].template view<const T, 3>("drow_bias")(b, h, t)));
    return sum;
  }
  template <class T>
  static double sink_weight(const Problem<V, T>& p, const Results& results, int64_t b, int64_t h, int64_t t) {
    const auto lse = results["log_sum_exp"].template view<const T, 3>("log_sum_exp");
    if (std::isinf(lse(b, h, t))) return 0;  // a row that is not computed
    return std::exp(static_cast<double>(p.slots().sink(h)) - static_cast<double>(lse(b, h, t)));
  }

  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  const uint32_t seed = fresh_seed();

 private:
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed)};
};

TYPED_TEST_SUITE(Identity, EveryVariant);

// A factor on the queries is a factor on the keys: only their products count.
TYPED_TEST(Identity, QueriesAndKeysHaveEqualProductsWithTheirGradients) {
  this->for_both([&]<class T>(const Problem<TypeParam, T>& p, const Results& results, double limit) {
    for (int64_t b = 0; b < p.dims.B; ++b)
      for (int64_t kv = 0; kv < p.dims.K; ++kv) {
        Sum queries, keys;
        this->template add_products<T>(queries, p.q, results["dq"], b, kv, this->kGroup);
        this->template add_products<T>(keys, p.k, results["dk"], b, kv, 1);
        expect_equal(queries, keys, limit);
      }
  });
}

// The output is linear in the values.
TYPED_TEST(Identity, ValuesHaveTheOutputsProductWithItsGradient) {
  this->for_both([&]<class T>(const Problem<TypeParam, T>& p, const Results& results, double limit) {
    for (int64_t b = 0; b < p.dims.B; ++b)
      for (int64_t kv = 0; kv < p.dims.K; ++kv) {
        Sum values, outputs;
        this->template add_products<T>(values, p.v, results["dv"], b, kv, 1);
        this->template add_products<T>(outputs, p.dout, results["o"], b, kv, this->kGroup);
        expect_equal(values, outputs, limit);
      }
  });
}

// Grouped queries equal one head of keys and values per query head, whose gradients add up over the group.
TYPED_TEST(Identity, GroupsShareRepeatedKeysAndValues) {
  this->for_both([&]<class T>(const Problem<TypeParam, T>& grouped, const Results& results, double limit) {
    const Dims& d = grouped.dims;
    const auto repeated_rows = [&](const Tensor& x) {
      const Tensor y = Tensor::empty({d.B, d.Tk, d.H, d.Dh}, x.dtype(), Device{});
      const auto from = x.view<const T, 4>("x");
      const auto to = y.view<T, 4>("y");
      for (int64_t b = 0; b < d.B; ++b)
        for (int64_t t = 0; t < d.Tk; ++t)
          for (int64_t h = 0; h < d.H; ++h)
            for (int64_t c = 0; c < d.Dh; ++c) to(b, t, h, c) = from(b, t, h / this->kGroup, c);
      return y;
    };
    const auto repeated_slot = [&]<class S>(const Tensor& x, S) {
      if (!x) return Tensor();
      const Tensor y = Tensor::empty({d.B, d.H, d.Tk}, x.dtype(), Device{});
      for (int64_t i = 0; i < y.numel(); ++i)
        y.data<S>()[i] = x.data<S>()[i / (this->kGroup * d.Tk) * d.Tk + i % d.Tk];
      return y;
    };
    Problem<TypeParam, T> p = grouped;
    p.dims.K = d.H;
    p.k = repeated_rows(grouped.k);
    p.v = repeated_rows(grouped.v);
    for_each_slot(
        [&]<class Slot>(Slot, Tensor& to, const Tensor& from) {
          if constexpr (Slot::info.rank == 3 && Slot::info.shape[1] == Extent::K)
            to = repeated_slot(from, typename Slot::template Number<T>());
        },
        p, grouped);
    const Results repeated = results_of<TypeParam>(p, *this->stream);

    for (const auto& [name, tensor] : results.tensors) {
      SCOPED_TRACE(name);
      const Tensor& all = repeated[name];
      if (all.shape() == tensor.shape()) {  // belongs to query heads
        const auto expected = tensor.template to_vector<T>(*this->stream);
        const auto actual = all.template to_vector<T>(*this->stream);
        EXPECT_EQ(std::memcmp(actual.data(), expected.data(), tensor.bytes()), 0);
        continue;
      }
      const T* const sums = tensor.template data<T>();
      const int64_t inner = tensor.rank() == 3 ? d.Tk : d.Dh;  // after the heads: [B,K,Tk] or [B,Tk,K,Dh]
      double largest = 0;
      for (int64_t i = 0; i < tensor.numel(); ++i)
        largest = std::max(largest, static_cast<double>(std::abs(sums[i])));
      for (int64_t i = 0; i < tensor.numel(); ++i) {
        double sum = 0;
        for (int64_t n = 0; n < this->kGroup; ++n)
          sum += all.template data<T>()[(i / inner * this->kGroup + n) * inner + i % inner];
        EXPECT_TRUE(std::abs(sum - sums[i]) <= limit * largest) << sum << " for " << sums[i];
      }
    }
  });
}

/// Variants whose softmax sees the scores as they are.
template <class V>
class ScoreIdentity : public Identity<V> {};
using KeepScores = ::testing::Types<attention::Plain, attention::SlidingWindow, attention::Sink,
                                    attention::RowAffine, attention::RowScaled, attention::KeyMasked,
                                    attention::ListedRows, FirstAndWindow, Documents>;
TYPED_TEST_SUITE(ScoreIdentity, KeepScores);

// A vector added to every key shifts each row's scores alike, which changes nothing, unless there is a sink:
// rows of dS sum to the sink's weight times r_i G_i.Y_i.
TYPED_TEST(ScoreIdentity, KeysHaveGradientsThatSumToZeroUnlessThereIsASink) {
  constexpr bool kHasSink = has(TypeParam::slots, Slots::sink);
  this->for_both([&]<class T>(const Problem<TypeParam, T>& p, const Results& results, double limit) {
    const auto dk = results["dk"].template view<const T, 4>("dk");
    const auto q = p.q.template view<const T, 4>("q");
    double largest = 0;
    for (int64_t b = 0; b < p.dims.B; ++b)
      for (int64_t kv = 0; kv < p.dims.K; ++kv)
        for (int64_t d = 0; d < p.dims.Dh; ++d) {
          Sum sum, of_sink;
          for (int64_t j = 0; j < p.dims.Tk; ++j) sum.add(dk(b, j, kv, d));
          if constexpr (kHasSink)
            for (int64_t h = kv * this->kGroup; h < (kv + 1) * this->kGroup; ++h)
              for (int64_t t = 0; t < p.dims.T; ++t)
                of_sink.add(p.scale() * static_cast<double>(q(b, t, h, d)) *
                            this->sink_weight(p, results, b, h, t) *
                            this->row_dot(p, results, b, h, t).value);
          expect_equal(sum, of_sink, limit);
          largest = std::max(largest, std::abs(sum.value));
        }
    if (kHasSink) {
      EXPECT_GT(largest, 1e-2);
    }
  });
}

/// Variants with gradients that are products of the output's row and its gradient.
template <class V>
class RowIdentity : public Identity<V> {};
using HaveRowGradients = ::testing::Types<attention::Sink, attention::RowAffine, attention::RowScaled,
                                          attention::ListedRows, Everything>;
TYPED_TEST_SUITE(RowIdentity, HaveRowGradients);

TYPED_TEST(RowIdentity, GradientsOfScalesAndSinksFollowFromTheOutput) {
  this->for_both([&]<class T>(const Problem<TypeParam, T>& p, const Results& results, double limit) {
    for (int64_t h = 0; h < p.dims.H; ++h) {
      Sum of_sink;
      for (int64_t b = 0; b < p.dims.B; ++b)
        for (int64_t t = 0; t < p.dims.T; ++t) {
          const Sum dot = this->row_dot(p, results, b, h, t);
          if constexpr (has(TypeParam::slots, Slots::row_scale)) {
            Sum gradient;
            gradient.add(static_cast<double>(p.slots().row_scale(b, h, t)) *
                         results["drow_scale"].template view<const T, 3>("drow_scale")(b, h, t));
            expect_equal(gradient, dot, limit);
          }
          if constexpr (has(TypeParam::slots, Slots::sink))
            of_sink.add(-this->sink_weight(p, results, b, h, t) * dot.value);
        }
      if constexpr (has(TypeParam::slots, Slots::sink)) {
        Sum gradient;
        gradient.add(results["dsink"].template data<T>()[h]);
        expect_equal(gradient, of_sink, limit);
      }
    }
  });
}

}  // namespace
}  // namespace headway::testing
