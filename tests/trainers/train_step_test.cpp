#include "trainers/train_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "autograd/engine.h"
#include "autograd/loss_collector.h"
#include "core/backend.h"
#include "core/comm/local.h"
#include "layers/model.h"
#include "tests/layers/json_fields.h"
#include "tests/support/seed.h"

namespace headway {
namespace {

constexpr int64_t kBatch = 3, kTokens = 7, kVocab = 11;
constexpr double kBalanceWeight = 0.7;

ModelConfig model_of(const std::vector<std::string>& layers) {
  ModelConfig config;
  config.num_layers = static_cast<int64_t>(layers.size());
  config.model_dim = 16;
  config.vocab_size = kVocab;
  testing::JsonFields fields(
      {{"num_heads", 4},
       {"layers", layers},
       {"moh", {{"kind", "moh"}, {"shared_heads", 1}, {"top_k", 2}, {"balance_weight", kBalanceWeight}}}});
  config.attention.describe(fields);
  config.resolve(kVocab, kTokens);
  return config;
}

using Gradients = std::map<std::string, std::vector<float>>;

class TrainStepTest : public ::testing::Test {
 protected:
  Gradients gradients_of(Model& model) {
    Gradients gradients;
    model.visit("", [&](const std::string& path, Parameter& parameter) {
      gradients[path] = parameter.gradient->grad.to_vector<float>(*stream);
    });
    return gradients;
  }

  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  std::unique_ptr<Communicator> local = make_local_communicator();
  const uint32_t seed = fresh_seed();
};

// However many layers of other kinds stand between them.
TEST_F(TrainStepTest, AnAuxiliaryLossIsTheMeanOverTheLayersThatAddIt) {
  std::vector<int32_t> ids(kBatch * kTokens);
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>(random_bits({seed, 0, 0, 0}, i) % static_cast<uint64_t>(kVocab));
  const Tensor tokens = Tensor::from<int32_t>(ids, {kBatch, kTokens}, *stream);
  const std::vector<std::vector<std::string>> stacks{
      {"softmax", "moh"}, {"moh", "moh", "softmax"}, {"moh", "softmax", "softmax", "moh"}};
  for (const auto& layers : stacks) {
    const ModelConfig config = model_of(layers);
    Model trained(config), plain(config);
    for (Model* const model : {&trained, &plain}) model->materialize(DType::f32, seed, *stream);

    Recipe recipe;
    recipe.data.seq_len = kTokens;
    recipe.train.micro_batch = kBatch;
    recipe.train.batch_tokens = kBatch * kTokens;
    TrainStep step(trained, recipe, *local, *stream);
    const StepNumbers numbers =
        step.run({{.tokens = tokens, .targets = tokens}}, {.num_targets = kBatch * kTokens}).wait();

    Rng rng(1);
    LossCollector auxiliary;
    Context ctx{.stream = *stream, .rng = rng, .training = true, .recording = true, .auxiliary = &auxiliary};
    std::vector<Variable> roots{
        plain.loss(ctx, tokens, tokens, 1.0 / static_cast<double>(kBatch * kTokens), Recompute::off)};
    const auto routing = static_cast<float>(std::ranges::count(layers, "moh"));
    float balance = 0;
    std::vector<Tensor> seeds{Tensor::from<float>(std::vector<float>{1}, {1}, *stream)};
    for (const AuxiliaryLoss& loss : auxiliary.losses()) {
      balance += loss.loss.value().to_vector<float>(*stream)[0] / routing;
      roots.push_back(loss.loss);
      seeds.push_back(Tensor::from<float>(std::vector<float>{static_cast<float>(kBalanceWeight) / routing},
                                          {1}, *stream));
    }
    backward(ctx, roots, seeds, MicroStep::last);

    EXPECT_NEAR(numbers.auxiliary.at("balance_loss"), balance, 1e-6 * std::abs(balance));
    const Gradients actual = gradients_of(trained), expected = gradients_of(plain);
    for (const auto& [path, values] : expected)
      for (size_t i = 0; i < values.size(); ++i)
        ASSERT_NEAR(actual.at(path)[i], values[i], 1e-6 + 1e-5 * std::abs(values[i])) << path;
  }
}

}  // namespace
}  // namespace headway
