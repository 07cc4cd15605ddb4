#include "autograd/ops/softmax_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>

#include "autograd/engine.h"
#include "kernels/attention/softmax_reference.h"
#include "tests/kernels/attention/cases.h"

namespace headway::testing {
namespace {

// The test's own variants have no unit in the kernel library.
HEADWAY_KERNEL(cpu, softmax_reference_forward<Exact<double>, Everything, double>);
HEADWAY_KERNEL(cpu, softmax_reference_backward<Exact<double>, Everything, double>);
HEADWAY_KERNEL(cpu, softmax_reference_forward<Exact<double>, WithDropout<Everything>, double>);
HEADWAY_KERNEL(cpu, softmax_reference_backward<Exact<double>, WithDropout<Everything>, double>);

class SoftmaxAttentionOp : public ::testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  Rng rng{1};
  Context ctx{.stream = *stream, .rng = rng, .training = true, .recording = true};

  static Variable leaf(const Tensor& value) { return value ? Variable::leaf(value) : Variable(); }

  /// sum(dout * o) differentiated through the graph, compared with central differences in every input.
  template <class V>
  void expect_gradients(const Problem<V, double>& p, double dropout = 0) {
    SoftmaxInputs in{.q = leaf(p.q), .k = leaf(p.k), .v = leaf(p.v)};
    for_each_slot(
        []<class Slot>(Slot, auto& input, const Tensor& slot) {
          if constexpr (Slot::info.has_gradient)
            input = leaf(slot);
          else
            input = slot;
        },
        in, p);
    const typename SoftmaxAttention<V>::Config config{
        .params = p.params, .query_offset = p.dims.query_offset, .dropout = dropout};
    const auto output = [&] {
      rng.rewind(0);
      return softmax_attention<V>(ctx, in, config);
    };
    const auto loss = [&] {
      const Tensor o = output().value();
      double sum = 0;
      for (int64_t i = 0; i < o.numel(); ++i) sum += o.data<double>()[i] * p.dout.template data<double>()[i];
      return sum;
    };
    const Variable o = output();
    backward(ctx, std::span(&o, 1), std::span(&p.dout, 1), MicroStep::last);

    const double step = std::cbrt(std::numeric_limits<double>::epsilon());
    std::vector<std::pair<const char*, Variable>> inputs{{"q", in.q}, {"k", in.k}, {"v", in.v}};
    for_each_slot_with_gradient(
        [&]<class Slot>(Slot, const Variable& input) { inputs.emplace_back(Slot::info.name, input); }, in);
    for (const auto& [name, input] : inputs) {
      if (!input.defined()) continue;
      ASSERT_TRUE(input.value().is_contiguous());
      for (int64_t i = 0; i < input.value().numel(); ++i) {
        double& x = input.value().template data<double>()[i];
        const double before = x;
        x = before + step;
        const double above = loss();
        x = before - step;
        const double below = loss();
        x = before;
        ASSERT_TRUE(std::abs(input.grad().template data<double>()[i] - (above - below) / (2 * step)) <=
                    100 * step * step)
            << name << " " << i;
      }
    }
  }
  /// A problem whose tensors can be leaves: q, k and v contiguous.
  template <class V>
  Problem<V, double> contiguous_problem(const Dims& d) {
    Problem<V, double> p = random_problem<V>(d, *stream);
    p.q = random_tensor({d.B, d.T, d.H, d.Dh}, 11, *stream);
    p.k = random_tensor({d.B, d.Tk, d.K, d.Dh}, 12, *stream);
    p.v = random_tensor({d.B, d.Tk, d.K, d.Dv}, 13, *stream);
    return p;
  }
};

constexpr Dims kDims{.B = 1, .T = 5, .H = 4, .K = 2, .Dh = 3, .Tk = 7, .query_offset = 2};

TEST_F(SoftmaxAttentionOp, DifferentiatesPlain) {
  expect_gradients(contiguous_problem<attention::Plain>(kDims));
}
TEST_F(SoftmaxAttentionOp, DifferentiatesAWindow) {
  expect_gradients(contiguous_problem<attention::SlidingWindow>(kDims));
}
TEST_F(SoftmaxAttentionOp, DifferentiatesASink) {
  expect_gradients(contiguous_problem<attention::Sink>(kDims));
}
TEST_F(SoftmaxAttentionOp, DifferentiatesEverySlot) {
  expect_gradients(contiguous_problem<Everything>(kDims));
}

TEST_F(SoftmaxAttentionOp, DifferentiatesValuesWiderThanKeys) {
  Dims dims = kDims;
  dims.Dv = 5;
  expect_gradients(contiguous_problem<attention::RowAffine>(dims));
}

TEST_F(SoftmaxAttentionOp, DifferentiatesWithDropoutOfWeights) {
  expect_gradients(contiguous_problem<attention::Plain>(kDims), 0.4);
  expect_gradients(contiguous_problem<attention::Sink>(kDims), 0.4);
  expect_gradients(contiguous_problem<Everything>(kDims), 0.4);
}

TEST_F(SoftmaxAttentionOp, DropsWeightsInTrainingAlone) {
  const Problem<attention::Plain, double> p = contiguous_problem<attention::Plain>(kDims);
  const auto output = [&](bool training, double dropout) {
    ctx.training = training;
    rng.rewind(0);
    return softmax_attention<attention::Plain>(ctx, {.q = leaf(p.q), .k = leaf(p.k), .v = leaf(p.v)},
                                               {.query_offset = p.dims.query_offset, .dropout = dropout})
        .value()
        .to_vector<double>(*stream);
  };
  const std::vector<double> whole = output(false, 0);
  EXPECT_EQ(output(false, 0.4), whole);
  EXPECT_EQ(rng.position(), 0u);
  EXPECT_EQ(output(true, 0), whole);
  EXPECT_NE(output(true, 0.4), whole);
  EXPECT_EQ(rng.position(), 1u);
}

TEST_F(SoftmaxAttentionOp, SavesNothingOfTheScoreMatrix) {
  const Problem<attention::Plain, double> p =
      contiguous_problem<attention::Plain>({.B = 1, .T = 64, .H = 2, .K = 1, .Dh = 4});
  const Variable o =
      softmax_attention<attention::Plain>(ctx, {.q = leaf(p.q), .k = leaf(p.k), .v = leaf(p.v)}, {});
  EXPECT_EQ(saved_bytes(o), (64 * 2 * 4 + 64 * 2) * sizeof(double));  // o and log_sum_exp
}

TEST_F(SoftmaxAttentionOp, RefusesSlotsThatDoNotFitTheVariant) {
  const Problem<attention::Sink, double> p = contiguous_problem<attention::Sink>(kDims);
  const SoftmaxInputs without{.q = leaf(p.q), .k = leaf(p.k), .v = leaf(p.v)};
  SoftmaxInputs with = without;
  with.sink = leaf(p.sink);
  EXPECT_THROW(softmax_attention<attention::Sink>(ctx, without, {}), ShapeError);
  EXPECT_THROW(softmax_attention<attention::Plain>(ctx, with, {}), ShapeError);
}

}  // namespace
}  // namespace headway::testing
