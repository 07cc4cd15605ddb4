// Rows on their own on the GPU: projections and softmax attention against float64 on the CPU, and models in
// which a layer chooses keys or heads, whose tokens get the same bits read alone as read with others.
#include "autograd/ops/linear.h"
#include "autograd/ops/softmax_attention.h"
#include "kernels/attention/variants/key_masked.h"
#include "kernels/attention/variants/row_affine.h"
#include "kernels/attention/variants/sink.h"
#include "kernels/attention/variants/sliding_window.h"
#include "tests/cuda/gpu_test.h"
#include "tests/layers/choosing_models.h"

namespace headway::testing {
namespace {

class GpuRowOps : public GpuTest {
 protected:
  /// The function in a context whose rows are computed on their own.
  static Function by_rows(const Function& function) {
    return [function](Context& ctx, const std::vector<Variable>& in) {
      Context inner = ctx;
      inner.row_invariant = true;
      return function(inner, in);
    };
  }
};

TEST_F(GpuRowOps, Projections) {
  for (const auto& [rows, in, out] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{{1, 7, 5}, {65, 64, 70}, {130, 33, 8}}) {
    SCOPED_TRACE(std::to_string(rows) + " rows");
    check({values({rows, in}), values({out, in}), vector({out})},
          by_rows([](Context& ctx, const std::vector<Variable>& x) {
            return apply<Linear>(ctx, {}, x[0], x[1], x[2]);
          }));
  }
}

TEST_F(GpuRowOps, SoftmaxAttention) {
  for (const auto& [length, head_dim] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 8}, {67, 64}, {130, 5}}) {
    SCOPED_TRACE(std::to_string(length) + " tokens");
    const double term = length == 1 ? 1 : 0.1;  // One key has no gradient in queries and keys.
    const int64_t B = 2, H = 4, K = 2;
    const std::vector<Input> qkv{values({B, length, H, head_dim}), values({B, length, K, head_dim}),
                                 values({B, length, K, head_dim})};
    const auto with = [&](std::vector<Input> slots) {
      slots.insert(slots.begin(), qkv.begin(), qkv.end());
      return slots;
    };
    check(qkv, by_rows([](Context& ctx, const std::vector<Variable>& x) {
            return softmax_attention<attention::SlidingWindow>(ctx, {.q = x[0], .k = x[1], .v = x[2]},
                                                               {.params = {.window = 40}});
          }),
          term);
    check(with({vector({H})}), by_rows([](Context& ctx, const std::vector<Variable>& x) {
            return softmax_attention<attention::Sink>(ctx, {.q = x[0], .k = x[1], .v = x[2], .sink = x[3]},
                                                      {.params = {.window = 0}});
          }),
          term);
    check(with({vector({B, H, length}), vector({B, H, length})}),
          by_rows([](Context& ctx, const std::vector<Variable>& x) {
            return softmax_attention<attention::RowAffine>(
                ctx, {.q = x[0], .k = x[1], .v = x[2], .row_scale = x[3], .row_bias = x[4]}, {});
          }),
          term);
    Input ends = ids({B, K, length}, length);
    for (int64_t i = 0; i < ends.shape.numel(); ++i)
      ends.values[static_cast<size_t>(i)] = static_cast<double>(i % length + 1 + i % 50);
    check(with({vector({B, K, length}), ends}), by_rows([](Context& ctx, const std::vector<Variable>& x) {
            return softmax_attention<attention::KeyMasked>(
                ctx, {.q = x[0], .k = x[1], .v = x[2], .key_bias = x[3], .key_end = x[4].value()}, {});
          }),
          term);
  }
}

class GpuRowInvariance : public GpuTest, public ::testing::WithParamInterface<ChoosingModel> {};

TEST_P(GpuRowInvariance, AnyCutOfATextGivesTheSameLogits) {
  const auto stream = backend({Device::Kind::cuda, 0}).make_stream();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(to_string(dtype));
    ChoosingCase model(GetParam(), dtype, *stream, seed_);
    for (const int64_t length : {int64_t{2}, int64_t{9}, int64_t{40}, model.kLength}) {
      const std::vector<double> one_by_one = model.logits(length, 1);
      for (const double x : one_by_one) ASSERT_TRUE(std::isfinite(x));
      for (const int64_t segment : {2, 7, 31, 83})
        EXPECT_EQ(model.logits(length, segment), one_by_one)
            << length << " tokens in segments of " << segment;
    }
  }
}

TEST_P(GpuRowInvariance, OtherSequencesOfABatchChangeNoBit) {
  const auto stream = backend({Device::Kind::cuda, 0}).make_stream();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(to_string(dtype));
    ChoosingCase model(GetParam(), dtype, *stream, seed_);
    EXPECT_EQ(model.hidden(4), model.hidden(1));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GpuRowInvariance, ::testing::ValuesIn(choosing_models()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace headway::testing
