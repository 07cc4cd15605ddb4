// The same training on the CPU and on the GPU.
#include <array>
#include <cmath>
#include <optional>

#include "core/comm/local.h"
#include "core/io/memory_archive.h"
#include "layers/model.h"
#include "tests/cuda/gpu_test.h"
#include "tests/layers/json_fields.h"
#include "trainers/optimizer.h"
#include "trainers/states.h"

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

/// Training on tokens that follow a rule.
class Training {
 public:
  Training(Device device, DType dtype, const ModelConfig& config, uint64_t seed = 1)
      : stream_(backend(device).make_stream()), model_(config) {
    model_.materialize(dtype, seed, *stream_);
    optimizer_.emplace(model_, AdamWConfig{}, *stream_);
  }

  /// The losses of steps first..last, counted from 1.
  std::vector<double> run(int64_t first, int64_t last, Recompute recompute = Recompute::off) {
    std::vector<double> curve;
    for (int64_t step = first; step <= last; ++step) {
      std::vector<int32_t> inputs, targets;
      for (int64_t i = 0; i < kBatch * kTokens; ++i) {
        const int64_t token = (step * 7 + i * i) % kVocab;
        inputs.push_back(static_cast<int32_t>(token));
        targets.push_back(static_cast<int32_t>((3 * token + 1) % kVocab));
      }
      for (const auto& buffer : model_.gradient_buffers()) buffer->written = false;
      Rng rng(1);
      Context ctx{.stream = *stream_, .rng = rng, .training = true, .recording = true};
      const Variable loss = model_.loss(ctx, Tensor::from<int32_t>(inputs, {kBatch, kTokens}, *stream_),
                                        Tensor::from<int32_t>(targets, {kBatch, kTokens}, *stream_),
                                        1.0 / (kBatch * kTokens), recompute);
      backward(ctx, loss, MicroStep::last);
      optimizer_->step(step, 3e-3, one_, *stream_);
      for (const auto& block : model_.blocks())
        block->attention().after_step(ctx, *local_, {.num_positions = kBatch * kTokens});
      curve.push_back(static_cast<double>(loss.value().to_vector<float>(*stream_)[0]));
    }
    return curve;
  }

  /// What a checkpoint keeps of both, from another training on the same device.
  void resume(Training& other) {
    MemoryArchive archive(*stream_);
    ModelState(other.model_).save(archive, "model");
    other.optimizer_->save(archive, "optim");
    ModelState(model_).load(archive, "model", *stream_);
    optimizer_->load(archive, "optim", *stream_);
  }

 private:
  std::unique_ptr<Stream> stream_;
  Tensor one_ = Tensor::from<double>(std::array{1.0}, {1}, *stream_);
  std::unique_ptr<Communicator> local_ = make_local_communicator();
  Model model_;
  std::optional<AdamW> optimizer_;
};

/// Roundings grow as steps follow each other; how fast differs by model.
void expect_steps_of_the_cpu(const ModelConfig& config, double bf16_limit) {
  const Device gpu{Device::Kind::cuda, 0};
  const auto cpu = Training(Device{}, DType::f32, config).run(1, 20);
  EXPECT_LT(cpu.back(), cpu.front() - 1);
  const auto fp32 = Training(gpu, DType::f32, config).run(1, 20);
  const auto bf16 = Training(gpu, DType::bf16, config).run(1, 20);
  for (size_t i = 0; i < cpu.size(); ++i) {
    EXPECT_LE(std::abs(fp32[i] - cpu[i]), 1e-3) << "step " << i + 1;
    EXPECT_LE(std::abs(bf16[i] - cpu[i]), bf16_limit) << "step " << i + 1;
  }
}

void expect_bits_that_repeat(const ModelConfig& config) {
  const Device gpu{Device::Kind::cuda, 0};
  const auto once = Training(gpu, DType::bf16, config).run(1, 20);
  EXPECT_EQ(once, Training(gpu, DType::bf16, config).run(1, 20));
  EXPECT_EQ(once, Training(gpu, DType::bf16, config).run(1, 20, Recompute::blocks));
}

void expect_bits_of_a_resumed_run(const ModelConfig& config) {
  const Device gpu{Device::Kind::cuda, 0};
  const std::vector<double> whole = Training(gpu, DType::bf16, config).run(1, 20);
  Training first(gpu, DType::bf16, config), second(gpu, DType::bf16, config, 2);
  first.run(1, 10);
  second.resume(first);
  EXPECT_EQ(second.run(11, 20), std::vector<double>(whole.begin() + 10, whole.end()));
}

class GpuTraining : public GpuTest, public ::testing::WithParamInterface<bool> {};

TEST_P(GpuTraining, TwentyStepsAreThoseOfTheCpu) { expect_steps_of_the_cpu(small_model(GetParam()), 5e-2); }

TEST_P(GpuTraining, BitsRepeatAndRecomputingChangesNone) { expect_bits_that_repeat(small_model(GetParam())); }

TEST_P(GpuTraining, AResumedRunHasTheBitsOfAWholeOne) {
  expect_bits_of_a_resumed_run(small_model(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Models, GpuTraining, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Gpt2" : "Llama"; });

/// A kind of attention with some of its keys.
struct Kind {
  const char* name;  // of the test
  nlohmann::json keys;
};
std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.keys; }

ModelConfig model_of(const Kind& kind) {
  ModelConfig config;
  config.num_layers = 2;
  config.model_dim = 128;
  config.vocab_size = 64;
  config.attention->num_heads = 2;
  JsonFields fields(kind.keys);
  config.attention.describe(fields);
  fields.check_all_used();
  config.resolve(kVocab, kTokens);
  return config;
}

class GpuKindTraining : public GpuTest, public ::testing::WithParamInterface<Kind> {};

TEST_P(GpuKindTraining, TwentyStepsAreThoseOfTheCpu) { expect_steps_of_the_cpu(model_of(GetParam()), 1e-1); }

TEST_P(GpuKindTraining, BitsRepeatAndRecomputingChangesNone) {
  expect_bits_that_repeat(model_of(GetParam()));
}

TEST_P(GpuKindTraining, AResumedRunHasTheBitsOfAWholeOne) {
  expect_bits_of_a_resumed_run(model_of(GetParam()));
}

const Kind kKinds[] = {
    {"Affine", {{"kind", "affine"}}},
    {"AffineGated", {{"kind", "affine"}, {"affine_beta", false}, {"gate_position", "g1"}}},
    {"Cca", {{"kind", "cca"}, {"num_kv_heads", 1}}},
    {"DynamicMask", {{"kind", "dynamic_mask"}, {"top_w", 12}}},
    {"Gated", {{"kind", "gated"}}},
    {"GatedHeadwise", {{"kind", "gated"}, {"gate_granularity", "headwise"}, {"gate_act", "silu"}}},
    {"Hedgehog", {{"kind", "hedgehog"}}},
    {"HedgehogExp", {{"kind", "hedgehog"}, {"feature_map", "exp"}, {"map_bias", true}, {"feature_dim", 40}}},
    {"Lightning", {{"kind", "lightning"}}},
    {"LightningLrpe",
     {{"kind", "lightning"},
      {"lrpe", "all"},
      {"gate", "sigmoid"},
      {"out_norm", "rms"},
      {"v_activation", "silu"}}},
    {"Moh", {{"kind", "moh"}, {"num_heads", 4}, {"shared_heads", 1}, {"top_k", 2}}},
    {"Nalaformer", {{"kind", "nalaformer"}}},
    {"NalaformerRope",
     {{"kind", "nalaformer"}, {"rope", true}, {"lambda_learnable", true}, {"out_norm", "rms_head"}}},
};
INSTANTIATE_TEST_SUITE_P(Kinds, GpuKindTraining, ::testing::ValuesIn(kKinds),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace headway::testing
