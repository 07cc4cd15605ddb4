// Sequences that ranks share: what threads as ranks compute together against one rank with whole sequences.
#include <mutex>

#include "core/comm/sequence_split.h"
#include "core/comm/thread.h"
#include "layers/model.h"
#include "tests/layers/kinds.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

constexpr double kTimeout_s = 60;
constexpr int64_t kSegment = 5;  // longer than any short convolution of kinds.h looks back

TEST(ZigzagTest, EveryTokenIsOfOneRank) {
  for (const int64_t ranks : {1, 2, 3, 5}) {
    const Zigzag zigzag{ranks};
    std::vector<int> owners(static_cast<size_t>(zigzag.num_segments() * kSegment));
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const TokenPositions positions = zigzag.positions(rank, kSegment);
      for (int64_t t = 0; t < 2 * kSegment; ++t) {
        ++owners.at(static_cast<size_t>(positions.of(t)));
        EXPECT_EQ(positions.token_at(positions.of(t)), t);
        const int64_t segment = positions.of(t) / kSegment;
        EXPECT_EQ(zigzag.rank_of(segment), rank);
        EXPECT_EQ(zigzag.segment(rank, zigzag.half_of(segment)), segment);
      }
      for (int64_t p = 0; p < zigzag.num_segments() * kSegment; ++p)
        if (zigzag.rank_of(p / kSegment) != rank) {
          const int64_t token = positions.token_at(p);
          EXPECT_TRUE(token < 0 || token >= 2 * kSegment) << "position " << p;
        }
    }
    for (const int count : owners) EXPECT_EQ(count, 1);
  }
}

/// Copies rows along dimension 1, those of a rank out of whole sequences or back into them.
enum class Direction : uint8_t { out_of_whole, into_whole };
template <class T>
void copy_rows(const Tensor& whole, const Tensor& own, const TokenPositions& positions, Direction direction) {
  const int64_t width = whole.numel() / whole.size(0) / whole.size(1);
  for (int64_t b = 0; b < own.size(0); ++b)
    for (int64_t t = 0; t < own.size(1); ++t) {
      T* const in_whole = whole.data<T>() + (b * whole.size(1) + positions.of(t)) * width;
      T* const in_own = own.data<T>() + (b * own.size(1) + t) * width;
      direction == Direction::out_of_whole ? std::copy_n(in_whole, width, in_own)
                                           : std::copy_n(in_own, width, in_whole);
    }
}
template <class T>
Tensor own_rows(const Tensor& whole, const SequenceSplit& split, Stream& stream) {
  Shape shape = whole.shape();
  shape[1] /= split.zigzag().num_ranks;
  const Tensor own = Tensor::zeros(shape, whole.dtype(), stream);
  copy_rows<T>(whole, own, split.positions(shape[1]), Direction::out_of_whole);
  return own;
}

using Gradients = std::map<std::string, std::vector<double>>;

/// Of every rank's parameters, added up.
void add_gradients(Module& module, Stream& stream, Gradients& sums) {
  module.visit("", [&](const std::string& path, Parameter& p) {
    const std::vector<double> values = p.gradient->grad.to_vector<double>(stream);
    std::vector<double>& sum = sums[path];
    sum.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) sum[i] += values[i];
  });
}
void copy_values(Module& from, Module& to, Stream& stream) {
  std::map<std::string, Tensor> values;
  from.visit("", [&](const std::string& path, Parameter& p) { values[path] = p.value; });
  to.visit("", [&](const std::string& path, Parameter& p) { p.value.copy_from(values.at(path), stream); });
}
void expect_near(const Gradients& actual, const Gradients& expected, double limit) {
  ASSERT_EQ(actual.size(), expected.size());
  double magnitude = 0;
  for (const auto& [path, values] : expected)
    for (const double value : values) magnitude = std::max(magnitude, std::abs(value));
  for (const auto& [path, values] : expected)
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_TRUE(std::abs(actual.at(path)[i] - values[i]) <= limit * magnitude) << path << " " << i;
}

class SequenceSplitOfKind : public LayerTest, public ::testing::WithParamInterface<KindCase> {
 protected:
  static constexpr int64_t kDim = kKindModelDim;

  struct Pass {
    Tensor y, dx;
    Gradients parameters;
  };
  Pass on_one_rank(AttentionLayer& layer, const Tensor& x, const Tensor& dy) {
    Pass pass{run(layer, x), {}, {}};
    pass.dx = gradients(layer, x, dy).at("x");
    add_gradients(layer, *stream, pass.parameters);
    return pass;
  }
  Pass on_ranks(int num_ranks, const nlohmann::json& keys, AttentionLayer& like, const Tensor& x,
                const Tensor& dy) {
    Pass pass{
        Tensor::zeros(x.shape(), DType::f64, *stream), Tensor::zeros(x.shape(), DType::f64, *stream), {}};
    std::mutex mutex;
    run_as_threads(num_ranks, kTimeout_s, [&](Communicator& comm) {
      const auto own_stream = cpu_backend().make_stream();
      const SequenceSplit split(comm);
      const auto layer = declare(GetParam().kind, kDim, keys);
      layer->materialize(DType::f64, seed, *own_stream);
      copy_values(like, *layer, *own_stream);
      Rng own_rng(seed);
      RopeTables tables;
      Context own{.stream = *own_stream, .rng = own_rng, .recording = true, .split = &split};
      const Variable leaf = Variable::leaf(own_rows<double>(x, split, *own_stream));
      const int64_t count = leaf.size(1);
      const TokenPositions places = split.positions(count);
      const Variable y = layer->forward(
          own, leaf, {places.first, count, &tables, places.before_gap, places.skipped}, nullptr);
      const Tensor own_dy = own_rows<double>(dy, split, *own_stream);
      backward(own, std::span(&y, 1), std::span(&own_dy, 1), MicroStep::last);
      const std::lock_guard lock(mutex);
      copy_rows<double>(pass.y, y.value(), places, Direction::into_whole);
      copy_rows<double>(pass.dx, leaf.grad(), places, Direction::into_whole);
      add_gradients(*layer, *own_stream, pass.parameters);
    });
    return pass;
  }
};

TEST_P(SequenceSplitOfKind, EqualsOneRankOrIsRefused) {
  for (const nlohmann::json& changes : GetParam().settings) {
    const nlohmann::json keys = with(GetParam().base, changes);
    SCOPED_TRACE(keys.dump());
    const auto layer = make(GetParam().kind, kDim, keys);
    perturb(*layer);
    if (const std::string objection = layer->objection_to_split(kSegment); !objection.empty()) {
      EXPECT_TRUE(!GetParam().recurrent || keys.value("feature_map", "") == "exp") << objection;
      continue;
    }
    for (const int num_ranks : {1, 2, 3, 4}) {
      SCOPED_TRACE(std::to_string(num_ranks) + " ranks");
      const Tensor x = random({2, 2 * num_ranks * kSegment, kDim}), dy = random(x.shape());
      const Pass expected = on_one_rank(*layer, x, dy), actual = on_ranks(num_ranks, keys, *layer, x, dy),
                 again = on_ranks(num_ranks, keys, *layer, x, dy);
      LayerTest::expect_near(actual.y, expected.y, 1e-11);
      LayerTest::expect_near(actual.dx, expected.dx, 1e-10);
      testing::expect_near(actual.parameters, expected.parameters, 1e-10);
      expect_equal_bits(actual.y, again.y);
      expect_equal_bits(actual.dx, again.dx);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, SequenceSplitOfKind, ::testing::ValuesIn(all_kind_cases()),
                         [](const auto& test) { return test.param.kind; });

TEST(SequenceSplitOfShortConv, RefusesSegmentsShorterThanItLooksBack) {
  const auto layer = [](int64_t taps) {
    const auto config = find_attention("lightning").make_config();
    JsonFields fields({{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 4}, {"short_conv", taps}});
    config->describe(fields);
    return find_attention("lightning")
        .make(*config,
              {.model_dim = 8, .num_layers = 1, .layer_index = 0, .init_std = 1, .output_init_std = 1});
  };
  EXPECT_EQ(layer(4)->objection_to_split(3), "");
  EXPECT_NE(layer(5)->objection_to_split(3), "");
}

/// A whole decoder with everything that depends on positions: learned ones, RoPE, LRPE, convolutions,
/// dropout, and targets that are asked at some places only.
class SequenceSplitOfModel : public LayerTest {
 protected:
  static constexpr int64_t kVocab = 11, kBatch = 2;

  static ModelConfig config(int64_t length) {
    ModelConfig config;
    config.num_layers = 3;
    config.model_dim = 12;
    config.mlp_dim = 16;
    config.vocab_size = kVocab;
    config.learned_positions = true;
    config.dropout = 0.3;
    JsonFields fields({{"num_heads", 2},
                       {"kind", "lightning"},
                       {"lrpe", "all"},
                       {"short_conv", 3},
                       {"layers", {"lightning", "hedgehog", "nalaformer"}},
                       {"hedgehog", {{"kind", "hedgehog"}}},
                       {"nalaformer", {{"kind", "nalaformer"}, {"rope", true}}}});
    config.attention.describe(fields);
    config.resolve(kVocab, length);
    return config;
  }
  /// Adds loss and gradients of what the rank has; split: null for all of it.
  void add_pass(const ModelConfig& config, const Tensor& tokens, const Tensor& targets, Recompute recompute,
                const SequenceSplit* split, double& loss, Gradients& gradients) {
    const auto own_stream = cpu_backend().make_stream();
    Model model(config);
    model.materialize(DType::f64, seed, *own_stream);
    Rng own_rng(seed);
    own_rng.begin(3, 4);
    Context own{.stream = *own_stream, .rng = own_rng, .training = true, .recording = true, .split = split};
    const auto rows = [&](const Tensor& whole) {
      return split ? own_rows<int32_t>(whole, *split, *own_stream) : whole;
    };
    const Variable root = model.loss(own, rows(tokens), rows(targets), 0.25, recompute);
    backward(own, root, MicroStep::last);
    const std::lock_guard lock(mutex_);
    loss += root.value().to_vector<double>(*own_stream)[0];
    add_gradients(model, *own_stream, gradients);
  }
  Tensor ids(const Shape& shape, uint32_t stream_number, bool with_gaps) {
    std::vector<int32_t> values(static_cast<size_t>(shape.numel()));
    for (size_t i = 0; i < values.size(); ++i) {
      const uint32_t bits = random_bits({seed, 0, stream_number, 0}, i);
      values[i] = with_gaps && bits % 3 == 0 ? -1 : static_cast<int32_t>(bits % kVocab);
    }
    return Tensor::from<int32_t>(values, shape, *stream);
  }

 private:
  std::mutex mutex_;
};

TEST_F(SequenceSplitOfModel, HasTheLossAndTheGradientsOfOneRank) {
  for (const int num_ranks : {2, 3})
    for (const Recompute recompute : {Recompute::off, Recompute::blocks}) {
      SCOPED_TRACE(std::to_string(num_ranks) + " ranks");
      const int64_t length = 2 * num_ranks * kSegment;
      const ModelConfig model = config(length);
      const Tensor tokens = ids({kBatch, length}, 1, false), targets = ids({kBatch, length}, 2, true);
      double expected_loss = 0, loss = 0;
      Gradients expected, actual;
      add_pass(model, tokens, targets, recompute, nullptr, expected_loss, expected);
      run_as_threads(num_ranks, kTimeout_s, [&](Communicator& comm) {
        const SequenceSplit split(comm);
        add_pass(model, tokens, targets, recompute, &split, loss, actual);
      });
      EXPECT_NEAR(loss, expected_loss, 1e-11 * expected_loss);
      testing::expect_near(actual, expected, 1e-10);
    }
}

}  // namespace
}  // namespace headway::testing
