#include <gtest/gtest.h>

#include "core/comm/local.h"
#include "core/io/memory_archive.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class AffineTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12, kHeads = 4;
  const Json base{{"num_heads", kHeads}, {"num_kv_heads", 2}, {"head_dim", 4}};

  void set_mean(AttentionLayer& layer, std::vector<double> mean) {
    MemoryArchive archive(*stream);
    const auto size = static_cast<int64_t>(mean.size());
    archive.tensor("running_mean", Tensor::from<double>(mean, {size}, *stream));
    layer.load_buffers(archive, "", *stream);
  }
  std::vector<double> mean_of(AttentionLayer& layer) {
    MemoryArchive archive(*stream);
    layer.save_buffers(archive, "");
    const Tensor mean = Tensor::empty({kHeads}, DType::f64, Device{});
    archive.tensor("running_mean", mean, *stream);
    return mean.to_vector<double>(*stream);
  }
};

// Where alpha = mu the shift vanishes, and the layer is softmax attention times mu.
TEST_F(AffineTest, AlphaOfItsMeanScalesSoftmaxAttention) {
  const auto softmax = make("softmax", kDim, base), affine = make("affine", kDim, base);
  for (const char* name : {"query/weight", "key/weight", "value/weight", "output/weight"})
    set(*affine, name, parameter(*softmax, name).value.to_vector<double>(*stream));
  set(*affine, "affine/weight", std::vector<double>(kHeads * kDim, 0.0));  // alpha = 0.5
  set_mean(*affine, std::vector<double>(kHeads, 0.5));
  const Tensor x = random({2, 9, kDim}), whole = run(*softmax, x), half = run(*affine, x);
  for (int64_t i = 0; i < whole.numel(); ++i)
    EXPECT_LE(std::abs(half.data<double>()[i] - whole.data<double>()[i] / 2), 1e-14);
}

TEST_F(AffineTest, TheRunningMeanCountsEveryMicroBatchOnceAndOnlyInTraining) {
  const auto layer = make("affine", kDim, with(base, {{"affine_ema_rho", 0.75}}));
  set(*layer, "affine/weight", std::vector<double>(kHeads * kDim, 0.0));
  const auto local = make_local_communicator();
  run(*layer, random({2, 5, kDim}));  // an evaluation has no alpha to count
  ctx.training = true;
  for (int micro_batch = 0; micro_batch < 3; ++micro_batch) run(*layer, random({2, 5, kDim}));
  ctx.recomputing = true;
  run(*layer, random({2, 5, kDim}));
  ctx.recomputing = false;
  layer->after_step(ctx, *local, {.num_positions = 30});
  for (const double mean : mean_of(*layer)) EXPECT_LE(std::abs(mean - 0.25 * 0.5), 1e-15);
}

TEST_F(AffineTest, AStepThatUpdatesNothingLeavesTheRunningMeanAndForgetsItsSums) {
  const auto layer = make("affine", kDim, with(base, {{"affine_ema_rho", 0.75}}));
  set(*layer, "affine/weight", std::vector<double>(kHeads * kDim, 0.0));
  const auto local = make_local_communicator();
  ctx.training = true;
  for (const double grad_scale : {-1.0, 1.0}) {
    run(*layer, random({2, 5, kDim}));
    layer->after_step(
        ctx, *local,
        {.num_positions = 10, .grad_scale = Tensor::from<double>(std::array{grad_scale}, {1}, *stream)});
    const double expected = grad_scale < 0 ? 0 : 0.25 * 0.5;
    for (const double mean : mean_of(*layer)) EXPECT_LE(std::abs(mean - expected), 1e-15);
  }
}

}  // namespace
}  // namespace headway::testing
