#include "kernels/attention/softmax_variant.h"

#include <gtest/gtest.h>

#include "kernels/attention/weight_dropout.h"
#include "tests/kernels/attention/cases.h"

namespace headway::testing {
namespace {

struct FloatOnly : SoftmaxVariant {
  static float score(const Params&, float s, Coord) { return s; }
};
struct LongPositions : SoftmaxVariant {
  static int64_t end(const Params&, int i, int) { return i; }
};
struct NotDerived {
  struct Params {};
};
static_assert(IsSoftmaxVariant<attention::Plain> && IsSoftmaxVariant<Everything>);
static_assert(!IsSoftmaxVariant<FloatOnly>);
static_assert(!IsSoftmaxVariant<LongPositions>);
static_assert(!IsSoftmaxVariant<NotDerived>);

static_assert(kHasCausalMask<attention::Plain> && kHasCausalMask<SoftCap>);
static_assert(kHasWindowMask<attention::SlidingWindow> && kHasWindowMask<attention::Sink>);
static_assert(!kHasCausalMask<attention::SlidingWindow> && !kHasWindowMask<attention::Plain>);
static_assert(!kHasCausalMask<Documents> && !kHasCausalMask<Everything> && !kHasCausalMask<LongPositions>);
static_assert(!kHasCausalMask<WithDropout<attention::Sink>> && !kHasWindowMask<WithDropout<attention::Sink>>);
static_assert(kHasDefaultScore<attention::Plain> && kHasDefaultScore<attention::SlidingWindow>);
static_assert(!kHasDefaultScore<SoftCap> && !kHasDefaultScore<Everything> && !kHasDefaultScore<FloatOnly>);

struct SoftCapByHand : SoftCap {
  template <class S>
  static S score_grad(const Params& params, S s, Coord) {
    const S t = std::tanh(s / S(params.cap));
    return S(1) - t * t;
  }
};

template <class V>
class Score : public ::testing::Test {};
template <class... Products>
using WithScores = ::testing::Types<Products..., SoftCap, SoftCapByHand, LearnedSlopes, Buckets, Everything>;
using Scores = ProductVariants<WithScores>;
TYPED_TEST_SUITE(Score, Scores);

TYPED_TEST(Score, SlopeIsTheCentralDifference) {
  const auto params =
      params_of<std::conditional_t<std::is_same_v<TypeParam, SoftCapByHand>, SoftCap, TypeParam>>();
  const Coord at{.batch = 1, .head = 2, .query = 9, .key = 4};
  constexpr Learned<double> kLearned{0.5, 0.75, 0.25};
  constexpr double kStep = 6e-6;  // cube root of the unit in the last place: error about kStep^2
  for (double s = -4; s <= 4; s += 0.37) {
    const double difference = (score_of<TypeParam>(params, s + kStep, kLearned, at) -
                               score_of<TypeParam>(params, s - kStep, kLearned, at)) /
                              (2 * kStep);
    EXPECT_NEAR((score_slopes<TypeParam>(params, s, kLearned, at).score), difference, 10 * kStep * kStep);
    EXPECT_NEAR(
        (score_slopes<TypeParam>(params, static_cast<float>(s), Learned<float>{0.5f, 0.75f, 0.25f}, at)
             .score),
        difference, 1e-6);
  }
}

template <class V>
class Registration : public ::testing::Test {};
using Products = ProductVariants<::testing::Types>;
TYPED_TEST_SUITE(Registration, Products);

template <class V>
void expect_cpu_kernels() {
  EXPECT_TRUE((has_kernel<SoftmaxForward<V, float>>(Device::Kind::cpu)));
  EXPECT_TRUE((has_kernel<SoftmaxBackward<V, float>>(Device::Kind::cpu)));
  EXPECT_TRUE((has_kernel<SoftmaxForward<V, double>>(Device::Kind::cpu)));
  EXPECT_TRUE((has_kernel<SoftmaxBackward<V, double>>(Device::Kind::cpu)));
}

struct SinkOfSigmoid : attention::Sink {
  using Weight = Sigmoid;
};
static_assert(IsSoftmaxVariant<SinkOfSigmoid> && !kSlotsFitWeights<SinkOfSigmoid>);
static_assert(kSlotsFitWeights<SecondOrderWeights> && kSlotsFitWeights<attention::Sink>);

struct Mean {
  static constexpr bool is_normalised = true;
};
struct NoWeight : SoftmaxVariant {
  using Weight = Mean;
};
static_assert(!IsSoftmaxVariant<NoWeight>);

template <class W>
class Weighing : public ::testing::Test {};
using WeightPolicies = ::testing::Types<Sigmoid, SecondOrder>;
TYPED_TEST_SUITE(Weighing, WeightPolicies);

TYPED_TEST(Weighing, SlopeIsTheCentralDifference) {
  const auto exp = [](auto x) { return std::exp(x); };
  constexpr double kStep = 6e-6;
  for (double x = -100; x <= 100; x = x < 0 ? x / 1.3 + 1e-2 : x * 1.3) {
    const double difference =
        (TypeParam::weight(x + kStep, exp) - TypeParam::weight(x - kStep, exp)) / (2 * kStep);
    EXPECT_NEAR((weight_slope<TypeParam>(x, exp)), difference, 1e-7);
    EXPECT_TRUE(std::isfinite(weight_slope<TypeParam>(static_cast<float>(x), exp))) << x;
  }
}

TYPED_TEST(Registration, EveryVariantHeaderHasCpuKernels) {
  expect_cpu_kernels<TypeParam>();
  expect_cpu_kernels<WithDropout<TypeParam>>();
}

TEST(SoftmaxCheck, NamesWhatDoesNotFit) {
  const auto stream = cpu_backend().make_stream();
  const Problem<attention::RowAffine, double> p =
      random_problem<attention::RowAffine>({.B = 1, .T = 4, .H = 2, .K = 2, .Dh = 4}, *stream);
  const Tensor o = Tensor::empty({1, 4, 2, 4}, DType::f64, Device{}),
               lse = Tensor::empty({1, 2, 4}, DType::f64, Device{});
  const SoftmaxForward<attention::RowAffine, double> good{.q = p.q.view<const double, 4>("q"),
                                                          .k = p.k.view<const double, 4>("k"),
                                                          .v = p.v.view<const double, 4>("v"),
                                                          .slots = p.slots(),
                                                          .params = {},
                                                          .o = o.view<double, 4>("o"),
                                                          .log_sum_exp = lse.view<double, 3>("lse"),
                                                          .y = {}};
  good.check();
  const auto message = [](const SoftmaxForward<attention::RowAffine, double>& args) {
    try {
      args.check();
    } catch (const ShapeError& error) {
      return std::string(error.what());
    }
    return std::string("nothing thrown");
  };
  auto bad = good;
  bad.slots.row_bias = {};
  EXPECT_EQ(message(bad), "softmax_attention_forward: row_bias is missing, expected [1, 2, 4]");
  bad = good;
  bad.v.size[1] = 3;
  EXPECT_EQ(message(bad), "softmax_attention_forward: v has shape [1, 3, 2, 4], expected [1, 4, 2, 4]");
  bad = good;
  bad.q.stride[3] = 2;
  EXPECT_EQ(message(bad), "softmax_attention_forward: q must be contiguous along the head's width");
  bad = good;
  bad.query_offset = -1;
  EXPECT_EQ(message(bad), "softmax_attention_forward: query_offset = -1 is negative");
  bad = good;
  bad.q.size[2] = 3;
  EXPECT_EQ(message(bad),
            "softmax_attention_forward: 3 query heads do not divide into groups of 2 key/value heads");
}

}  // namespace
}  // namespace headway::testing
