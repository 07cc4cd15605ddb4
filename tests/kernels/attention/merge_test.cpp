#include <gtest/gtest.h>

#include <limits>

#include "kernels/attention/softmax_reference.h"
#include "kernels/ops/merge_attention.h"
#include "tests/kernels/attention/cases.h"

namespace headway::testing {
namespace {

/// Sees the keys from first() on, up to the position: one part of a split of the keys.
struct LaterKeys : SoftmaxVariant {
  struct Params {
    int first;
  };
  static int begin(const Params& params, int, int) { return params.first; }
};
struct EarlierKeys : LaterKeys {
  static int begin(const Params&, int, int) { return 0; }
  static int end(const Params& params, int i, int) { return i + 1 < params.first ? i + 1 : params.first; }
};

struct Output {
  Tensor o, log_sum_exp;
};

class Merge : public ::testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  static constexpr Dims kDims{.B = 2, .T = 11, .H = 2, .K = 1, .Dh = 5};

  template <class V>
  Output attend(const typename V::Params& params) {
    const auto p = random_problem<V>(kDims, *stream);
    const Output result{Tensor::empty({2, 11, 2, 5}, DType::f64, Device{}),
                        Tensor::empty({2, 2, 11}, DType::f64, Device{})};
    softmax_reference_forward<Exact<double>>(
        SoftmaxForward<V, double>{.q = p.q.template view<const double, 4>("q"),
                                  .k = p.k.template view<const double, 4>("k"),
                                  .v = p.v.template view<const double, 4>("v"),
                                  .slots = {},
                                  .params = params,
                                  .scale = 0.4,
                                  .o = result.o.template view<double, 4>("o"),
                                  .log_sum_exp = result.log_sum_exp.template view<double, 3>("log_sum_exp"),
                                  .y = {}},
        *stream);
    return result;
  }
  void merge_into_first(const Output& a, const Output& b) {
    merge_attention<attention::Plain>(
        MergeAttention<double>{.o1 = a.o.view<const double, 4>("o1"),
                               .o2 = b.o.view<const double, 4>("o2"),
                               .log_sum_exp1 = a.log_sum_exp.view<const double, 3>("lse1"),
                               .log_sum_exp2 = b.log_sum_exp.view<const double, 3>("lse2"),
                               .o = a.o.view<double, 4>("o"),
                               .log_sum_exp = a.log_sum_exp.view<double, 3>("log_sum_exp")},
        *stream);
  }
};

TEST_F(Merge, SplitKeysEqualTheWhole) {
  const Output whole = attend<attention::Plain>({});
  for (const int split : {0, 1, 4, 11}) {  // at 0 and 11 one part sees nothing
    const Output merged = attend<EarlierKeys>({.first = split});
    merge_into_first(merged, attend<LaterKeys>({.first = split}));
    for (int64_t i = 0; i < whole.o.numel(); ++i)
      ASSERT_NEAR(merged.o.data<double>()[i], whole.o.data<double>()[i], 1e-15 * 10) << "split at " << split;
    for (int64_t i = 0; i < whole.log_sum_exp.numel(); ++i)
      ASSERT_NEAR(merged.log_sum_exp.data<double>()[i], whole.log_sum_exp.data<double>()[i], 1e-15 * 10);
  }
}

TEST_F(Merge, NothingAndNothingIsNothing) {
  const Output a = attend<LaterKeys>({.first = 11}), b = attend<LaterKeys>({.first = 11});
  merge_into_first(a, b);
  for (const double value : a.o.to_vector<double>(*stream)) ASSERT_EQ(value, 0);
  for (const double value : a.log_sum_exp.to_vector<double>(*stream))
    ASSERT_EQ(value, -std::numeric_limits<double>::infinity());
}

TEST_F(Merge, RefusesOtherShapes) {
  Output a = attend<attention::Plain>({}), b = attend<attention::Plain>({});
  b.o = b.o.slice(1, 0, 10);
  EXPECT_THROW(merge_into_first(a, b), ShapeError);
}

}  // namespace
}  // namespace headway::testing
