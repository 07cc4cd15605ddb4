#include "layers/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <random>

#include "autograd/engine.h"
#include "autograd/gradcheck.h"
#include "core/backend.h"
#include "tests/layers/json_fields.h"

namespace headway {
namespace {

constexpr int64_t kVocab = 11;

ModelConfig gpt2_style() {
  ModelConfig config;
  config.num_layers = 2;
  config.model_dim = 8;
  config.max_seq_len = 6;
  config.learned_positions = true;
  config.mlp = "gelu";
  config.norm = "layer_norm";
  config.bias = true;
  config.attention->num_heads = 2;
  config.attention->rope = false;
  config.attention->bias = true;
  return config;
}

ModelConfig llama_style() {
  ModelConfig config;
  config.num_layers = 2;
  config.model_dim = 8;
  config.mlp_dim = 12;
  config.tied_head = false;
  config.attention->num_heads = 4;
  config.attention->num_kv_heads = 2;
  config.attention->head_dim = 4;
  return config;
}

ModelConfig transnormer_style() {
  ModelConfig config;
  config.num_layers = 2;
  config.model_dim = 8;
  config.mlp = "glu";
  config.mlp_dim = 12;
  config.norm = "srms_norm";
  config.scale_embedding = true;
  testing::JsonFields fields({{"kind", "lightning"}, {"num_heads", 2}, {"lrpe", "first_layer"}});
  config.attention.describe(fields);
  fields.check_all_used();
  return config;
}

ModelConfig with(ModelConfig config, const std::function<void(ModelConfig&)>& change) {
  change(config);
  return config;
}

/// Every third layer sees everything; the others a window, with a sink, or a recurrent state.
ModelConfig hybrid() {
  ModelConfig config = llama_style();
  config.num_layers = 3;
  testing::JsonFields fields(
      {{"num_heads", 2},
       {"head_dim", 4},
       {"layers", {"near", "lightning", "softmax"}},
       {"near", {{"kind", "softmax"}, {"window", 2}, {"num_kv_heads", 1}, {"sink", true}}}});
  config.attention.describe(fields);
  fields.check_all_used();
  return config;
}

const std::map<std::string, ModelConfig>& configs() {
  static const std::map<std::string, ModelConfig> all{
      {"gpt2", gpt2_style()},
      {"llama", llama_style()},
      {"transnormer", transnormer_style()},
      {"qk_norm_and_half_rope", with(llama_style(),
                                     [](ModelConfig& c) {
                                       c.attention->qk_norm = true;
                                       c.attention->rope_fraction = 0.5;
                                     })},
      {"hybrid", hybrid()},
      {"window_and_dropout", with(gpt2_style(), [](ModelConfig& c) {
         c.attention->window = 3;
         c.attention->dropout = 0.2;
         c.dropout = 0.3;
       })}};
  return all;
}

/// A model in double precision whose every parameter is random, and a batch for it.
class Case {
 public:
  explicit Case(ModelConfig config, int64_t batch = 2, int64_t tokens = 5) {
    config.resolve(kVocab, tokens);
    config.vocab_size = kVocab;
    model = std::make_unique<Model>(config);
    model->materialize(DType::f64, 1, *stream);
    std::mt19937 random(7);
    std::normal_distribution<double> normal(0, 0.4);
    model->visit("", [&](const std::string& path, Parameter& parameter) {
      for (int64_t i = 0; i < parameter.value.numel(); ++i)
        parameter.value.data<double>()[i] += normal(random);
      leaves.push_back(parameter.variable());
      paths.push_back(path);
    });
    std::vector<int32_t> ids(static_cast<size_t>(batch * tokens));
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocab);
    inputs = Tensor::from<int32_t>(ids, {batch, tokens}, *stream);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocab);
    ids[1] = -1;
    targets = Tensor::from<int32_t>(ids, {batch, tokens}, *stream);
  }

  Variable loss(Context& c, Recompute mode = Recompute::off) const {
    return model->loss(c, inputs, targets, 0.1, mode);
  }
  /// The gradients of one step.
  std::vector<std::vector<double>> gradients(Recompute mode) {
    for (const Variable& leaf : leaves) leaf.edge().leaf->written = false;
    rng.begin(3, 0);
    const Variable root = loss(ctx, mode);
    const Tensor seed = Tensor::from<double>(std::array{1.0}, {1}, *stream);
    backward(ctx, std::span(&root, 1), std::span(&seed, 1), MicroStep::last);
    std::vector<std::vector<double>> all;
    for (const Variable& leaf : leaves)
      all.push_back(leaf.grad() ? leaf.grad().to_vector<double>(*stream) : std::vector<double>());
    return all;
  }

  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  Rng rng{5};
  Context ctx{.stream = *stream, .rng = rng, .training = true, .recording = true};
  std::unique_ptr<Model> model;
  std::vector<Variable> leaves;
  std::vector<std::string> paths;
  Tensor inputs, targets;
};

class ModelTest : public ::testing::TestWithParam<std::string> {
 protected:
  const ModelConfig& config() const { return configs().at(GetParam()); }
};

TEST_P(ModelTest, GradientsAreCentralDifferences) {
  Case c(config());
  const GradCheck check = gradcheck(c.ctx, [&](Context& ctx) { return std::vector{c.loss(ctx)}; }, c.leaves,
                                    {.elements_per_leaf = 12});
  EXPECT_LE(check.error, 1e-8) << check.worst;
}

TEST_P(ModelTest, AParameterThatLearnsAloneHasTheGradientItAlwaysHas) {
  Case whole(config());
  const auto expected = whole.gradients(Recompute::off);
  for (size_t i = 0; i < whole.paths.size(); ++i)
    for (const Recompute mode : {Recompute::off, Recompute::blocks}) {
      SCOPED_TRACE(whole.paths[i]);
      Case alone(config());
      alone.model->train_only({whole.paths[i]});
      const auto gradients = alone.gradients(mode);
      for (size_t j = 0; j < gradients.size(); ++j) {
        const bool learns = whole.paths[j].find(whole.paths[i]) != std::string::npos;
        EXPECT_EQ(gradients[j], learns ? expected[j] : std::vector<double>()) << whole.paths[j];
      }
    }
}

TEST_P(ModelTest, RecomputingBlocksChangesNoBitOfAnyGradient) {
  Case c(config());
  const auto kept = c.gradients(Recompute::off);
  const auto recomputed = c.gradients(Recompute::blocks);
  for (size_t i = 0; i < kept.size(); ++i) EXPECT_EQ(kept[i], recomputed[i]) << c.paths[i];
}

TEST_P(ModelTest, RecomputingBlocksKeepsLess) {
  Case c(config(), 2, 6);
  EXPECT_LT(saved_bytes(c.loss(c.ctx, Recompute::blocks)), saved_bytes(c.loss(c.ctx)));
}

TEST_P(ModelTest, TokensOneByOneGiveTheLogitsOfAllAtOnce) {
  Case c(config(), 1);
  Context ctx{.stream = *c.stream, .rng = c.rng};
  const int64_t B = c.inputs.size(0), T = c.inputs.size(1);
  DecodeState one_by_one = c.model->make_state(B, T, c.stream->device());
  for (int64_t t = 0; t < T; ++t) {
    DecodeState at_once = c.model->make_state(B, T, c.stream->device());
    const Tensor last = c.model->next_logits(ctx, c.inputs.slice(1, t, t + 1), one_by_one);
    const auto expected =
        c.model->next_logits(ctx, c.inputs.slice(1, 0, t + 1), at_once).to_vector<double>(*c.stream);
    const auto actual = last.to_vector<double>(*c.stream);
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_LE(std::abs(actual[i] - expected[i]), 1e-12) << t;
  }
}

TEST_P(ModelTest, ALaterTokenChangesNoEarlierState) {
  Case c(config());
  Context ctx{.stream = *c.stream, .rng = c.rng};
  const auto rows = [&] { return c.model->hidden(ctx, c.inputs, Recompute::off).value(); };
  const auto before = rows().to_vector<double>(*c.stream);
  int32_t& changed = c.inputs.data<int32_t>()[3];  // token 3 of sequence 0
  changed = (changed + 1) % kVocab;
  const auto after = rows().to_vector<double>(*c.stream);
  const int64_t D = c.model->config().model_dim, T = c.inputs.size(1);
  for (int64_t i = 0; i < std::ssize(before); ++i) {
    const bool may_change = i / D < T && i / D >= 3;
    if (!may_change) {
      EXPECT_EQ(before[i], after[i]) << "row " << i / D;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, ModelTest,
                         ::testing::Values("gpt2", "llama", "transnormer", "qk_norm_and_half_rope",
                                           "window_and_dropout", "hybrid"),
                         [](const auto& test) { return test.param; });

TEST(ModelGradients, TwoMicroBatchesAddUpToTheWholeBatch) {
  Case c(llama_style(), 4);
  const auto whole = c.gradients(Recompute::off);
  for (const Variable& leaf : c.leaves) leaf.edge().leaf->written = false;
  const Tensor inputs = c.inputs, targets = c.targets;
  const Tensor seed = Tensor::from<double>(std::array{1.0}, {1}, *c.stream);
  for (const int64_t first : {0, 2}) {
    c.inputs = inputs.slice(0, first, first + 2);
    c.targets = targets.slice(0, first, first + 2);
    const Variable root = c.loss(c.ctx);
    backward(c.ctx, std::span(&root, 1), std::span(&seed, 1),
             first == 0 ? MicroStep::more_follow : MicroStep::last);
  }
  for (size_t i = 0; i < whole.size(); ++i) {
    const auto sum = c.leaves[i].grad().to_vector<double>(*c.stream);
    for (size_t j = 0; j < sum.size(); ++j) EXPECT_LE(std::abs(sum[j] - whole[i][j]), 1e-13) << c.paths[i];
  }
}

/// Models are declared without memory, so these cost nothing.
TEST(ModelSize, Gpt2SmallHasItsPublishedNumberOfParameters) {
  ModelConfig config = gpt2_style();
  config.num_layers = 12;
  config.model_dim = 768;
  config.max_seq_len = 1024;
  config.vocab_size = 50257;
  config.attention->num_heads = 12;
  config.resolve(50257, 1024);
  EXPECT_EQ(Model(config).num_parameters(), 124'439'808);
}

TEST(ModelSize, TinyLlamaHasItsPublishedNumberOfParameters) {
  ModelConfig config = llama_style();  // arXiv 2401.02385, table 1
  config.num_layers = 22;
  config.model_dim = 2048;
  config.mlp_dim = 5632;
  config.vocab_size = 32000;
  config.attention->num_heads = 32;
  config.attention->num_kv_heads = 4;
  config.attention->head_dim = 64;
  config.resolve(32000, 2048);
  EXPECT_EQ(Model(config).num_parameters(), 1'100'048'384);
}

/// arXiv 2405.17381: 24 layers of 5 d^2 and 3 d 2816 and the tied table, angles of the first layer apart.
TEST(ModelSize, TransNormerHasNoParametersInItsNorms) {
  ModelConfig config = transnormer_style();
  config.num_layers = 24;
  config.model_dim = 1024;
  config.mlp_dim = 2816;
  config.vocab_size = 50265;
  config.attention->num_heads = 8;
  config.resolve(50265, 2048);
  EXPECT_EQ(Model(config).num_parameters(), 24 * (5 * 1024 * 1024 + 3 * 1024 * 2816) + 50265 * 1024 + 1024);
}

TEST(ModelLosses, TokensAddUpToTheLoss) {
  Case c(llama_style());
  const Tensor losses = c.model->token_losses(c.ctx, c.inputs, c.targets);
  EXPECT_EQ(losses.shape(), c.inputs.shape());
  const std::vector<double> values = losses.to_vector<double>(*c.stream);
  EXPECT_EQ(values[1], 0);  // its target is -1
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  EXPECT_NEAR(0.1 * sum, c.loss(c.ctx).value().to_vector<double>(*c.stream)[0], 1e-13 * sum);
}

TEST(ModelStart, TheFirstLossIsThatOfAGuess) {
  ModelConfig config = llama_style();
  config.model_dim = 64;
  config.resolve(kVocab, 5);
  Case c(llama_style());
  Model model(config);
  model.materialize(DType::f64, 1, *c.stream);
  const double counted = static_cast<double>(c.targets.numel() - 1);
  const double loss = model.loss(c.ctx, c.inputs, c.targets, 1 / counted, Recompute::off)
                          .value()
                          .to_vector<double>(*c.stream)[0];
  // Logits of a fresh model have a standard deviation of 0.02 sqrt(64) = 0.16.
  EXPECT_LE(std::abs(loss - std::log(static_cast<double>(config.vocab_size))), 0.2);
}

}  // namespace
}  // namespace headway
