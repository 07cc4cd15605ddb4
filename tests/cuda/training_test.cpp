// The same training on the CPU and on the GPU.
#include <array>
#include <cmath>
#include <optional>

#include "core/comm/local.h"
#include "core/io/memory_archive.h"
#include "layers/model.h"
#include "tests/cuda/gpu_test.h"
#include "tests/layers/json_fields.h"
#include "trainers/states.h"
#include "trainers/train_step.h"

namespace headway::testing {
namespace {

constexpr int64_t kVocab = 61, kBatch = 4, kTokens = 40;

enum class Style { gpt2, llama, transnormer };
void PrintTo(Style style, std::ostream* out) { *out << static_cast<int>(style); }

ModelConfig small_model(Style style) {
  ModelConfig config;
  config.num_layers = 2;
  config.model_dim = 128;
  config.vocab_size = 64;
  config.attention->num_heads = 2;
  if (style == Style::gpt2) {
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
  if (style == Style::transnormer) {
    config.mlp = "glu";
    config.norm = "srms_norm";
    config.scale_embedding = true;
  }
  config.resolve(kVocab, kTokens);
  return config;
}

struct TrainingOptions {
  Recompute recompute = Recompute::off;
  bool cuda_graphs = true;
  int64_t accumulated = 1;
};

/// Training on tokens that follow a rule.
class Training {
 public:
  Training(Device device, DType dtype, const ModelConfig& config, uint64_t seed = 1,
           const TrainingOptions& options = {})
      : stream_(backend(device).make_stream()), model_(config) {
    model_.materialize(dtype, seed, *stream_);
    recipe_.data.seq_len = kTokens;
    recipe_.train.micro_batch = kBatch;
    recipe_.train.batch_tokens = kBatch * kTokens * options.accumulated;
    recipe_.train.recompute = options.recompute == Recompute::blocks;
    recipe_.train.cuda_graphs = options.cuda_graphs;
    step_.emplace(model_, recipe_, *local_, *stream_);
  }

  /// The losses of steps first..last, counted from 1.
  std::vector<double> run(int64_t first, int64_t last) {
    std::vector<TrainStep::Pending> pending;
    const int64_t accumulated = recipe_.accumulation_steps(1);
    for (int64_t step = first; step <= last; ++step) {
      std::vector<Batch> batches;
      for (int64_t k = 0; k < accumulated; ++k) batches.push_back(batch(step * accumulated + k));
      pending.push_back(
          step_->run(std::move(batches),
                     {.step = step, .learning_rate = 3e-3, .num_targets = kBatch * kTokens * accumulated}));
    }
    std::vector<double> curve;
    for (const TrainStep::Pending& one : pending) curve.push_back(one.wait().loss);
    return curve;
  }

  /// What a checkpoint keeps of both, from another training on the same device.
  void resume(Training& other) {
    MemoryArchive archive(*stream_);
    ModelState(other.model_).save(archive, "model");
    other.step_->optimizer().save(archive, "optim");
    ModelState(model_).load(archive, "model", *stream_);
    step_->optimizer().load(archive, "optim", *stream_);
  }

 private:
  Batch batch(int64_t number) const {
    std::vector<int32_t> inputs, targets;
    for (int64_t i = 0; i < kBatch * kTokens; ++i) {
      const int64_t token = (number * 7 + i * i) % kVocab;
      inputs.push_back(static_cast<int32_t>(token));
      targets.push_back(static_cast<int32_t>((3 * token + 1) % kVocab));
    }
    return {.tokens = Tensor::from<int32_t>(inputs, {kBatch, kTokens}, *stream_),
            .targets = Tensor::from<int32_t>(targets, {kBatch, kTokens}, *stream_)};
  }

  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Communicator> local_ = make_local_communicator();
  Recipe recipe_;
  Model model_;
  std::optional<TrainStep> step_;
};

/// Roundings grow as steps follow each other; how fast differs by model.
void expect_steps_of_the_cpu(const ModelConfig& config, double fp32_limit, double bf16_limit) {
  const Device gpu{Device::Kind::cuda, 0};
  const auto cpu = Training(Device{}, DType::f32, config).run(1, 20);
  EXPECT_LT(cpu.back(), cpu.front() - 1);
  const auto fp32 = Training(gpu, DType::f32, config).run(1, 20);
  const auto bf16 = Training(gpu, DType::bf16, config).run(1, 20);
  for (size_t i = 0; i < cpu.size(); ++i) {
    EXPECT_LE(std::abs(fp32[i] - cpu[i]), fp32_limit) << "step " << i + 1;
    EXPECT_LE(std::abs(bf16[i] - cpu[i]), bf16_limit) << "step " << i + 1;
  }
}

/// Neither repetition nor recomputation nor graphs change a bit.
void expect_bits_that_repeat(const ModelConfig& config) {
  const Device gpu{Device::Kind::cuda, 0};
  const auto bits = [&](const TrainingOptions& options) {
    return Training(gpu, DType::bf16, config, 1, options).run(1, 20);
  };
  const auto once = bits({});
  EXPECT_EQ(once, bits({}));
  EXPECT_EQ(once, bits({.cuda_graphs = false}));
  EXPECT_EQ(once, bits({.recompute = Recompute::blocks}));
  EXPECT_EQ(bits({.accumulated = 4}), bits({.cuda_graphs = false, .accumulated = 4}));
}

void expect_bits_of_a_resumed_run(const ModelConfig& config) {
  const Device gpu{Device::Kind::cuda, 0};
  const std::vector<double> whole = Training(gpu, DType::bf16, config).run(1, 20);
  Training first(gpu, DType::bf16, config), second(gpu, DType::bf16, config, 2);
  first.run(1, 10);
  second.resume(first);
  EXPECT_EQ(second.run(11, 20), std::vector<double>(whole.begin() + 10, whole.end()));
}

class GpuTraining : public GpuTest, public ::testing::WithParamInterface<Style> {};

TEST_P(GpuTraining, TwentyStepsAreThoseOfTheCpu) {
  expect_steps_of_the_cpu(small_model(GetParam()), 1e-3, 5e-2);
}

TEST_P(GpuTraining, BitsRepeatAndRecomputingChangesNone) { expect_bits_that_repeat(small_model(GetParam())); }

TEST_P(GpuTraining, AResumedRunHasTheBitsOfAWholeOne) {
  expect_bits_of_a_resumed_run(small_model(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Models, GpuTraining,
                         ::testing::Values(Style::gpt2, Style::llama, Style::transnormer),
                         [](const auto& test) {
                           return test.param == Style::gpt2    ? "Gpt2"
                                  : test.param == Style::llama ? "Llama"
                                                               : "Transnormer";
                         });

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

TEST_P(GpuKindTraining, TwentyStepsAreThoseOfTheCpu) {
  // Where keys are chosen, one rounding may choose another.
  const bool chooses = GetParam().keys.at("kind") == "dynamic_mask";
  expect_steps_of_the_cpu(model_of(GetParam()), chooses ? 2e-2 : 1e-3, 1e-1);
}

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
