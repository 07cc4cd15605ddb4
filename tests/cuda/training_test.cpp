// The same training on the CPU and on the GPU.
#include <array>
#include <cmath>

#include "layers/model.h"
#include "tests/cuda/gpu_test.h"
#include "trainers/optimizer.h"

namespace headway::testing {
namespace {

constexpr int64_t kVocab = 61, kBatch = 4, kTokens = 40;

ModelConfig small_model(bool gpt2) {
  ModelConfig config;
  config.num_layers = 2;
  config.model_dim = 128;
  config.vocab_size = 64;
  config.attention->num_heads = 2;
  if (gpt2) {
    config.learned_positions = true;
    config.mlp = "gelu";
    config.norm = "layer_norm";
    config.bias = true;
    config.attention->bias = true;
    config.attention->rope = false;
  } else {
    config.attention->num_kv_heads = 1;
    config.attention->qk_norm = true;
  }
  config.resolve(kVocab, kTokens);
  return config;
}

/// The losses of 20 steps on tokens that follow a rule.
std::vector<double> losses(Device device, DType dtype, const ModelConfig& config, Recompute recompute) {
  const auto stream = backend(device).make_stream();
  Model model(config);
  model.materialize(dtype, 1, *stream);
  AdamW optimizer(model, {}, *stream);
  std::vector<double> curve;
  for (int64_t step = 1; step <= 20; ++step) {
    std::vector<int32_t> inputs, targets;
    for (int64_t i = 0; i < kBatch * kTokens; ++i) {
      const int64_t token = (step * 7 + i * i) % kVocab;
      inputs.push_back(static_cast<int32_t>(token));
      targets.push_back(static_cast<int32_t>((3 * token + 1) % kVocab));
    }
    for (const auto& buffer : model.gradient_buffers()) buffer->written = false;
    Rng rng(1);
    Context ctx{.stream = *stream, .rng = rng, .training = true, .recording = true};
    const Variable loss = model.loss(ctx, Tensor::from<int32_t>(inputs, {kBatch, kTokens}, *stream),
                                     Tensor::from<int32_t>(targets, {kBatch, kTokens}, *stream),
                                     1.0 / (kBatch * kTokens), recompute);
    backward(ctx, loss, MicroStep::last);
    optimizer.step(step, 3e-3, 1, *stream);
    curve.push_back(static_cast<double>(loss.value().to_vector<float>(*stream)[0]));
  }
  return curve;
}

class GpuTraining : public GpuTest, public ::testing::WithParamInterface<bool> {};

TEST_P(GpuTraining, TwentyStepsAreThoseOfTheCpu) {
  const ModelConfig config = small_model(GetParam());
  const Device gpu{Device::Kind::cuda, 0};
  const auto cpu = losses(Device{}, DType::f32, config, Recompute::off);
  EXPECT_LT(cpu.back(), cpu.front() - 1);
  const auto fp32 = losses(gpu, DType::f32, config, Recompute::off);
  const auto bf16 = losses(gpu, DType::bf16, config, Recompute::off);
  for (size_t i = 0; i < cpu.size(); ++i) {
    EXPECT_LE(std::abs(fp32[i] - cpu[i]), 1e-3) << "step " << i + 1;
    EXPECT_LE(std::abs(bf16[i] - cpu[i]), 5e-2) << "step " << i + 1;
  }
}

TEST_P(GpuTraining, BitsRepeatAndRecomputingChangesNone) {
  const ModelConfig config = small_model(GetParam());
  const Device gpu{Device::Kind::cuda, 0};
  const auto once = losses(gpu, DType::bf16, config, Recompute::off);
  EXPECT_EQ(once, losses(gpu, DType::bf16, config, Recompute::off));
  EXPECT_EQ(once, losses(gpu, DType::bf16, config, Recompute::blocks));
}

INSTANTIATE_TEST_SUITE_P(Models, GpuTraining, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Gpt2" : "Llama"; });

}  // namespace
}  // namespace headway::testing
