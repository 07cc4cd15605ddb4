// What holds for attention of every kind: the rows of kinds.h, which must be all that are registered.
#include <set>

#include "core/comm/local.h"
#include "tests/layers/copy_state.h"
#include "tests/layers/kinds.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

class EveryKind : public LayerTest, public ::testing::WithParamInterface<KindCase> {
 protected:
  static constexpr int64_t kDim = kKindModelDim;

  /// No parameter and no running average keeps a special value.
  std::unique_ptr<AttentionLayer> perturbed(const nlohmann::json& keys) {
    auto layer = make(GetParam().kind, kDim, keys);
    perturb(*layer);
    Context training{.stream = *stream, .rng = rng, .training = true};
    const Tensor x = random({2, 5, kDim});
    layer->forward(training, Variable(x), {.offset = 0, .count = 5, .tables = &rope_tables}, nullptr);
    const auto local = make_local_communicator();
    layer->after_step(training, *local, {.num_positions = 10});
    return layer;
  }
  void for_settings(const std::function<void(AttentionLayer&, const nlohmann::json& keys)>& test) {
    for (const nlohmann::json& changes : GetParam().settings) {
      const nlohmann::json keys = with(GetParam().base, changes);
      SCOPED_TRACE(keys.dump());
      test(*perturbed(keys), keys);
    }
  }
};

TEST_P(EveryKind, GradientsAreDifferenceQuotients) {
  for_settings([&](AttentionLayer& layer, const nlohmann::json&) {
    for (const int64_t length : {1, 2, 7}) {
      SCOPED_TRACE("tokens " + std::to_string(length));
      expect_gradients(layer, random({2, length, kDim}), GetParam().gradient_limit);
    }
  });
}

TEST_P(EveryKind, LaterTokensChangeNoBitOfEarlierOnes) {
  for_settings([&](AttentionLayer& layer, const nlohmann::json&) { expect_causal(layer, kDim, 9); });
}

// Tokens after those whose outputs have a gradient get none, and do not matter to the others.
TEST_P(EveryKind, GradientsOfLaterTokensAreZero) {
  for_settings([&](AttentionLayer& layer, const nlohmann::json&) {
    constexpr int64_t kLength = 9, kLast = 4;
    const Tensor dy = random({1, kLength, kDim});
    for (int64_t i = (kLast + 1) * kDim; i < kLength * kDim; ++i) dy.data<double>()[i] = 0;
    const Tensor x = random({1, kLength, kDim}), dx = gradients(layer, x, dy).at("x");
    for (int64_t i = (kLast + 1) * kDim; i < kLength * kDim; ++i)
      EXPECT_EQ(dx.data<double>()[i], 0) << "token " << i / kDim;
    double largest = 0;
    for (int64_t i = 0; i < (kLast + 1) * kDim; ++i)
      largest = std::max(largest, std::abs(dx.data<double>()[i]));
    EXPECT_GT(largest, 0);

    for (int64_t i = (kLast + 1) * kDim; i < kLength * kDim; ++i) x.data<double>()[i] += 1;
    expect_near(gradients(layer, x, dy).at("x").slice(1, 0, kLast + 1), dx.slice(1, 0, kLast + 1), 1e-12);
  });
}

TEST_P(EveryKind, DecodingEqualsOnePass) {
  for_settings(
      [&](AttentionLayer& layer, const nlohmann::json&) { expect_decoding_equals_one_pass(layer, kDim); });
}

// Two segments with a state between them have the gradients of one pass.
TEST_P(EveryKind, GradientsPassThroughARecurrentState) {
  if (!GetParam().recurrent) GTEST_SKIP() << "keeps keys and values";
  for_settings([&](AttentionLayer& layer, const nlohmann::json&) {
    constexpr int64_t kLength = 8, kCut = 2;
    const Tensor x = random({1, kLength, kDim}), dy = random({1, kLength, kDim});
    const Tensor whole = gradients(layer, x, dy).at("x");
    const Variable first = Variable::leaf(x.slice(1, 0, kCut)),
                   second = Variable::leaf(x.slice(1, kCut, kLength));
    const auto state = layer.make_state(1, kLength, DType::f64, Device{});
    ctx.recording = true;
    const std::vector<Variable> roots{run(layer, first, state.get(), 0),
                                      run(layer, second, state.get(), kCut)};
    const std::vector<Tensor> seeds{dy.slice(1, 0, kCut), dy.slice(1, kCut, kLength)};
    backward(ctx, roots, seeds, MicroStep::last);
    ctx.recording = false;
    expect_near(first.grad(), whole.slice(1, 0, kCut), 1e-10);
    expect_near(second.grad(), whole.slice(1, kCut, kLength), 1e-10);
  });
}

TEST_P(EveryKind, BitsRepeat) {
  for_settings([&](AttentionLayer& layer, const nlohmann::json&) {
    const Tensor x = random({3, 70, kDim}), dy = random({3, 70, kDim});
    expect_equal_bits(run(layer, x), run(layer, x));
    const auto first = gradients(layer, x, dy), second = gradients(layer, x, dy);
    for (const auto& [path, gradient] : first) expect_equal_bits(gradient, second.at(path));
  });
}

TEST_P(EveryKind, SequencesOfABatchDoNotMix) {
  for_settings([&](AttentionLayer& layer, const nlohmann::json&) {
    const Tensor x = random({3, 8, kDim}), y = run(layer, x);
    for (int64_t b = 0; b < 3; ++b) {
      const Tensor alone = run(layer, x.slice(0, b, b + 1).clone(*stream));
      expect_near(alone, y.slice(0, b, b + 1), 1e-13);
    }
  });
}

// The float32 that trains: rounding errors of a few hundred operations per output.
TEST_P(EveryKind, Float32FollowsFloat64) {
  for_settings([&](AttentionLayer& layer, const nlohmann::json& keys) {
    const auto single = make(GetParam().kind, kDim, keys, DType::f32);
    copy_state(layer, *stream, *single, *stream, DType::f32);
    const Tensor x = random({2, 33, kDim});
    const std::vector<double> exact = to_doubles(run(layer, x), *stream);
    rope_tables = {};  // are of one dtype
    const std::vector<double> y = to_doubles(
        run(*single, from_doubles(to_doubles(x, *stream), x.shape(), DType::f32, *stream)), *stream);
    rope_tables = {};
    double largest = 0, magnitude = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      largest = max_or_nan(largest, std::abs(y[i] - exact[i]));
      magnitude = std::max(magnitude, std::abs(exact[i]));
    }
    EXPECT_TRUE(largest <= 1e-4 * magnitude) << largest << " of " << magnitude;
  });
}

TEST_P(EveryKind, DropsAttentionWeightsInTrainingAloneOrRefusesTheKey) {
  const auto& [kind, base, settings, limit, chooses, recurrent] = GetParam();
  if (!find_attention(kind).make_config()->has_heads()) GTEST_SKIP() << "its members have the key";
  const nlohmann::json keys = with(base, {{"dropout", 0.4}});
  if (recurrent) {
    try {
      make(kind, kDim, keys);
      FAIL() << "nothing was thrown";
    } catch (const ConfigError& error) {
      EXPECT_EQ(std::string(error.what()).find("model.attention.dropout is set, but " + kind), 0u)
          << error.what();
    }
    return;
  }
  const auto layer = make(kind, kDim, keys), plain = make(kind, kDim, base);
  perturb(*layer);
  copy_parameters(*layer, *plain);
  const Tensor x = random({2, 9, kDim});
  expect_equal_bits(run(*layer, x), run(*plain, x));

  ctx.training = true;
  const auto trained = [&](const Tensor& input, uint64_t first_sample) {
    rng.begin(1, first_sample);
    return run(*layer, input);
  };
  const Tensor dropped = trained(x, 0);
  expect_equal_bits(trained(x, 0), dropped);
  EXPECT_NE(to_doubles(dropped, *stream), to_doubles(run(*plain, x), *stream));
  expect_near(trained(x.slice(0, 1, 2).clone(*stream), 1), dropped.slice(0, 1, 2), 1e-12);

  std::vector<Variable> leaves{Variable::leaf(x)};
  layer->visit("", [&](const std::string&, Parameter& p) { leaves.push_back(p.variable()); });
  const GradCheck check =
      gradcheck(ctx,
                [&](Context& c) {
                  rng.begin(1, 0);
                  return std::vector{layer->forward(
                      c, leaves[0], {.offset = 0, .count = 9, .tables = &rope_tables}, nullptr)};
                },
                leaves, {.elements_per_leaf = 40});
  EXPECT_TRUE(check.error <= limit) << "error " << check.error << ": " << check.worst;
}

TEST_P(EveryKind, CountsOfWorkAndMemoryGrowWithTheTokens) {
  for_settings([&](AttentionLayer& layer, const nlohmann::json&) {
    const Cost once = layer.cost(1, 64, 2), twice = layer.cost(2, 64, 2);
    EXPECT_GT(once.ideal_flop.forward, 0);
    EXPECT_GT(once.ideal_flop.backward, once.ideal_flop.forward);
    EXPECT_GT(once.executed_flop.forward, once.ideal_flop.forward);  // a mask leaves half of a tile
    EXPECT_GT(once.executed_flop.backward, once.ideal_flop.backward);
    EXPECT_GT(once.saved_bytes, 0);
    EXPECT_NEAR(twice.executed_flop.total(), 2 * once.executed_flop.total(),
                1e-6 * twice.executed_flop.total());
    EXPECT_GT(layer.cache_bytes_per_token(2) + layer.state_bytes(2), 0);
  });
}

INSTANTIATE_TEST_SUITE_P(Kinds, EveryKind, ::testing::ValuesIn(all_kind_cases()),
                         [](const auto& test) { return test.param.kind; });

TEST(Kinds, EveryRegisteredKindHasARow) {
  std::set<std::string> registered, rows;
  for (const AttentionVariant* variant : all_attention()) registered.insert(std::string(variant->name));
  for (const KindCase& row : all_kind_cases()) EXPECT_TRUE(rows.insert(row.kind).second) << row.kind;
  EXPECT_EQ(registered, rows);
}

}  // namespace
}  // namespace headway::testing
