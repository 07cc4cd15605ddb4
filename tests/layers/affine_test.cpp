// Affine-scaled attention against sums of values in plain loops. Rows are scaled by alpha_i and shifted by
// (mu - alpha_i) / N_i times the sum of the n_i visible values.
#include <gtest/gtest.h>

#include "core/comm/local.h"
#include "core/comm/thread.h"
#include "core/io/memory_archive.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class AffineTest : public LayerTest {
 protected:
  static constexpr int64_t kHeads = 4, kHeadDim = 4, kDim = kHeads * kHeadDim, kLength = 9;
  const Json base{{"num_heads", kHeads}, {"num_kv_heads", 2}, {"head_dim", kHeadDim}};

  void set_mean(AttentionLayer& layer, const std::vector<double>& mean, DType dtype = DType::f64) {
    MemoryArchive archive(*stream);
    archive.tensor("running_mean", from_doubles(mean, {kHeads}, dtype, *stream));
    layer.load_buffers(archive, "", *stream);
  }
  std::vector<double> mean_of(AttentionLayer& layer) {
    MemoryArchive archive(*stream);
    layer.save_buffers(archive, "");
    const Tensor mean = Tensor::empty({kHeads}, DType::f64, Device{});
    archive.tensor("running_mean", mean, *stream);
    return mean.to_vector<double>(*stream);
  }
  /// The softmax layer whose every alpha has the score `score`.
  std::unique_ptr<AttentionLayer> scaled(AttentionLayer& softmax, const Json& keys, double score, double mean,
                                         DType dtype = DType::f64) {
    auto layer = make("affine", kDim, with(with(base, keys), {{"affine_bias", true}}), dtype);
    copy_parameters(softmax, *layer);
    fill(*layer, "affine/weight", 0);
    fill(*layer, "affine/bias", score);
    set_mean(*layer, std::vector<double>(kHeads, mean), dtype);
    return layer;
  }
  /// A layer of random weights and means whose output is its heads side by side.
  std::unique_ptr<AttentionLayer> random_layer(const Json& keys) {
    auto layer = make("affine", kDim, with(base, keys));
    expose_heads(*layer);
    means_ = random({kHeads}).to_vector<double>(*stream);
    set_mean(*layer, means_);
    return layer;
  }

  /// Every divisor, with and without a window.
  static std::vector<Json> all_counts() {
    std::vector<Json> all;
    for (const char* count : {"fixed", "visible", "seqlen"})
      for (const int window : {0, 3})
        all.push_back({{"affine_n_mode", count}, {"affine_n_fixed", 11}, {"window", window}});
    return all;
  }
  static int64_t num_visible(const Json& keys, int64_t i) {
    const int64_t window = keys.value("window", 0);
    return window > 0 ? std::min(window, i + 1) : i + 1;
  }
  static double count(const Json& keys, int64_t i) {
    if (keys["affine_n_mode"] == "fixed") return 11;
    return static_cast<double>(keys["affine_n_mode"] == "visible" ? num_visible(keys, i) : kLength);
  }
  /// alpha [B,T,H] by the layer's weights.
  Tensor scales(AttentionLayer& layer, const Tensor& x, bool logistic) {
    const Tensor alpha = product(x, parameter(layer, "affine/weight").value);
    for (int64_t i = 0; i < alpha.numel(); ++i) {
      double& a = alpha.data<double>()[i];
      a = logistic ? 1 / (1 + std::exp(-a)) : std::clamp(0.1 * a + 0.5, 0.0, 1.0);
    }
    return alpha;
  }
  /// Sums of the visible values [B,T,H Dh], those of a group's value head for each of its heads.
  Tensor value_sums(AttentionLayer& layer, const Tensor& x, const Json& keys) {
    const Tensor values = product(x, parameter(layer, "value/weight").value);
    const int64_t group = kDim / values.size(2);
    const Tensor sums = Tensor::zeros({x.size(0), kLength, kDim}, DType::f64, *stream);
    const auto v = values.view<const double, 3>("v");
    const auto c = sums.view<double, 3>("c");
    for (int64_t b = 0; b < x.size(0); ++b)
      for (int64_t i = 0; i < kLength; ++i)
        for (int64_t j = i + 1 - num_visible(keys, i); j <= i; ++j)
          for (int64_t n = 0; n < kDim; ++n)
            c(b, i, n) += v(b, j, n / (group * kHeadDim) * kHeadDim + n % kHeadDim);
    return sums;
  }
  /// [B,T,H Dh] from value(b, i, h, n), where n is the channel of the row.
  template <class Value>
  Tensor rows_of(int64_t batch, const Value& value) {
    const Tensor rows = Tensor::empty({batch, kLength, kDim}, DType::f64, Device{});
    const auto to = rows.view<double, 3>("rows");
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t i = 0; i < kLength; ++i)
        for (int64_t n = 0; n < kDim; ++n) to(b, i, n) = value(b, i, n / kHeadDim, n);
    return rows;
  }

  std::vector<double> means_;
};

TEST_F(AffineTest, FullScalesOfMeanOneEqualSoftmax) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    SCOPED_TRACE(to_string(dtype));
    rope_tables = {};  // are of one dtype
    const auto softmax = make("softmax", kDim, base, dtype);
    const auto affine = scaled(*softmax, Json::object(), 10, 1, dtype);
    const Tensor x = random({2, kLength, kDim}, 1, dtype), dy = random(x.shape(), 1, dtype);
    expect_equal_but_for_rounding(run(*affine, x), run(*softmax, x));
    const auto actual = gradients(*affine, x, dy), expected = gradients(*softmax, x, dy);
    for (const auto& [path, gradient] : expected) expect_equal_but_for_rounding(actual.at(path), gradient);
    expect_zero(actual.at("affine/weight"));
    expect_zero(actual.at("affine/bias"));
  }
}

// Where alpha = mu the shift vanishes, and the layer is softmax attention times mu.
TEST_F(AffineTest, AlphaOfItsMeanScalesSoftmaxAttention) {
  const auto softmax = make("softmax", kDim, base);
  const Tensor x = random({2, kLength, kDim}), dy = random(x.shape()), y = run(*softmax, x);
  const auto expected = gradients(*softmax, x, dy);

  const auto times = [&](const Tensor& values, double factor) {
    const Tensor products = values.clone(*stream);
    for (int64_t i = 0; i < values.numel(); ++i) products.data<double>()[i] *= factor;
    return products;
  };
  const auto half = scaled(*softmax, Json::object(), 0, 0.5);
  expect_equal_but_for_rounding(run(*half, x), times(y, 0.5));
  for (const auto& [path, gradient] : gradients(*half, x, dy))
    if (expected.contains(path)) expect_equal_but_for_rounding(gradient, times(expected.at(path), 0.5));

  const auto other = scaled(*softmax, {{"affine_n_mode", "visible"}}, -2, 0.3);
  expect_near(run(*other, x), times(y, 0.3), 1e-13);
  for (const auto& [path, gradient] : gradients(*other, x, dy))
    if (expected.contains(path) && path != "x") expect_near(gradient, times(expected.at(path), 0.3), 1e-12);
}

TEST_F(AffineTest, ScalesOfZeroLeaveTheSumOfValues) {
  const auto softmax = make("softmax", kDim, base);
  expose_heads(*softmax);
  const Tensor x = random({2, kLength, kDim}), dy = random(x.shape());
  for (const Json& keys : all_counts()) {
    SCOPED_TRACE(keys.dump());
    const auto layer = scaled(*softmax, keys, -10, 0);
    const std::vector<double> means = random({kHeads}).to_vector<double>(*stream);
    set_mean(*layer, means);
    const Tensor sums = value_sums(*layer, x, keys);
    const auto c = sums.view<const double, 3>("c");
    expect_near(
        run(*layer, x),
        rows_of(2, [&](int64_t b, int64_t i, int64_t h,
                       int64_t n) { return means[static_cast<size_t>(h)] / count(keys, i) * c(b, i, n); }),
        1e-13);
    const auto actual = gradients(*layer, x, dy);
    for (const char* path : {"query/weight", "key/weight", "affine/weight", "affine/bias"})
      expect_zero(actual.at(path));
  }
}

// With values of one an output is the sum of its row's weights: (1 - n_i / N_i) alpha_i + n_i / N_i mu.
TEST_F(AffineTest, WeightsOfARowSumToBetweenItsScaleAndTheMean) {
  for (const Json& keys : all_counts())
    for (const char* activation : {"lin_clip", "sigmoid"}) {
      SCOPED_TRACE(keys.dump() + activation);
      const auto layer = random_layer(with(keys, {{"bias", true}, {"affine_act", activation}}));
      fill(*layer, "value/weight", 0);
      fill(*layer, "value/bias", 1);
      set_random(*layer, "affine/weight", 2);
      const Tensor x = random({2, kLength, kDim}), y = run(*layer, x);
      const Tensor scale = scales(*layer, x, activation == std::string("sigmoid"));
      const auto alpha = scale.view<const double, 3>("alpha"), sum = y.view<const double, 3>("y");
      expect_near(y,
                  rows_of(2,
                          [&](int64_t b, int64_t i, int64_t h, int64_t) {
                            const double share = static_cast<double>(num_visible(keys, i)) / count(keys, i);
                            return (1 - share) * alpha(b, i, h) + share * means_[static_cast<size_t>(h)];
                          }),
                  1e-13);
      for (int64_t b = 0; b < 2; ++b)
        for (int64_t i = 0; i < kLength; ++i)
          for (int64_t h = 0; h < kHeads; ++h) {
            const auto [low, high] = std::minmax({alpha(b, i, h), means_[static_cast<size_t>(h)]});
            const double row = sum(b, i, h * kHeadDim);
            EXPECT_TRUE(low - 1e-13 <= row && row <= high + 1e-13) << low << " " << row << " " << high;
          }
    }
}

// Divided by the number of visible keys, rows sum to the mean whatever their scale.
TEST_F(AffineTest, EqualWeightsOfVisibleKeysLeaveNothingForTheScale) {
  for (const int window : {0, 3}) {
    const Json keys{{"affine_n_mode", "visible"}, {"window", window}};
    const auto layer = random_layer(keys);
    fill(*layer, "query/weight", 0);
    const Tensor x = random({2, kLength, kDim}), sums = value_sums(*layer, x, keys);
    const auto c = sums.view<const double, 3>("c");
    expect_near(
        run(*layer, x),
        rows_of(2, [&](int64_t b, int64_t i, int64_t h,
                       int64_t n) { return means_[static_cast<size_t>(h)] * c(b, i, n) / count(keys, i); }),
        1e-13);
    const Tensor gradient = gradients(*layer, x, random(x.shape())).at("affine/weight");
    for (const double value : gradient.to_vector<double>(*stream)) EXPECT_LE(std::abs(value), 1e-12);
  }
}

TEST_F(AffineTest, TheFirstTokenWeighsItsScaleAndItsShift) {
  for (const Json& keys : all_counts()) {
    SCOPED_TRACE(keys.dump());
    const auto layer = random_layer(keys);
    const Tensor x = random({1, kLength, kDim}), scale = scales(*layer, x, false),
                 sums = value_sums(*layer, x, keys);
    const auto alpha = scale.view<const double, 3>("alpha"), value = sums.view<const double, 3>("value");
    const Tensor expected = rows_of(1, [&](int64_t b, int64_t i, int64_t h, int64_t n) {
      const double a = alpha(b, i, h);
      return (a + (means_[static_cast<size_t>(h)] - a) / count(keys, i)) * value(b, i, n);
    });
    expect_near(run(*layer, x).slice(1, 0, 1), expected.slice(1, 0, 1), 1e-13);
  }
}

TEST_F(AffineTest, WithoutShiftsALogisticScaleIsAGatePerHead) {
  const auto gated = make("gated", kDim, with(base, {{"gate_granularity", "headwise"}}));
  const auto affine = make("affine", kDim, with(base, {{"affine_beta", false}, {"affine_act", "sigmoid"}}));
  const auto path_of = [](const std::string& path) {
    return path == "gate/weight" ? std::string("affine/weight") : path;
  };
  gated->visit("", [&](const std::string& path, Parameter& p) {
    parameter(*affine, path_of(path)).value.copy_from(p.value, *stream);
  });
  const Tensor x = random({2, kLength, kDim}), dy = random(x.shape());
  expect_near(run(*affine, x), run(*gated, x), 1e-13);
  const auto actual = gradients(*affine, x, dy), expected = gradients(*gated, x, dy);
  for (const auto& [path, gradient] : expected) expect_near(actual.at(path_of(path)), gradient, 1e-11);
}

TEST_F(AffineTest, AChangedMeanAddsItsShareOfTheSumOfValues) {
  for (const Json& keys : all_counts()) {
    SCOPED_TRACE(keys.dump());
    const auto layer = random_layer(keys);
    const Tensor x = random({2, kLength, kDim}), before = run(*layer, x), sums = value_sums(*layer, x, keys);
    const std::vector<double> change = random({kHeads}).to_vector<double>(*stream);
    for (size_t h = 0; h < change.size(); ++h) means_[h] += change[h];
    set_mean(*layer, means_);
    const auto y = before.view<const double, 3>("y"), c = sums.view<const double, 3>("c");
    expect_near(run(*layer, x),
                rows_of(2,
                        [&](int64_t b, int64_t i, int64_t h, int64_t n) {
                          return y(b, i, n) + change[static_cast<size_t>(h)] / count(keys, i) * c(b, i, n);
                        }),
                1e-13);
  }
}

// alpha_i dLoss/dalpha_i = G_i.O_i - mu (G_i.C_i) / N_i: neither weights nor unscaled rows are needed.
TEST_F(AffineTest, GradientsOfScalesFollowFromTheOutputAndTheSumOfValues) {
  for (const Json& keys : all_counts()) {
    SCOPED_TRACE(keys.dump());
    const auto layer = random_layer(with(keys, {{"affine_act", "sigmoid"}}));
    const Tensor x = random({2, kLength, kDim}), dy = random(x.shape()), o = run(*layer, x),
                 sums = value_sums(*layer, x, keys), scale = scales(*layer, x, true);
    const Tensor dz = Tensor::zeros(scale.shape(), DType::f64, *stream);
    const auto g = dy.view<const double, 3>("g"), y = o.view<const double, 3>("o"),
               c = sums.view<const double, 3>("c"), alpha = scale.view<const double, 3>("alpha");
    const auto to = dz.view<double, 3>("dz");
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t i = 0; i < kLength; ++i)
        for (int64_t n = 0; n < kDim; ++n) {
          const int64_t h = n / kHeadDim;
          const double product =
              g(b, i, n) * (y(b, i, n) - means_[static_cast<size_t>(h)] * c(b, i, n) / count(keys, i));
          to(b, i, h) += (1 - alpha(b, i, h)) * product;  // dalpha/dz = alpha (1 - alpha)
        }
    expect_near(gradients(*layer, x, dy).at("affine/weight"), weight_gradient(dz, x), 1e-11);
  }
}

// The divisor `seqlen` is the paper's, and the reason why it is not the default.
TEST_F(AffineTest, RowsDependOnTheLengthOfTheTextOnlyIfTheDivisorIsThatLength) {
  for (const char* mode : {"fixed", "visible", "seqlen"}) {
    SCOPED_TRACE(mode);
    const auto layer = random_layer({{"affine_n_mode", mode}});
    const Tensor x = random({1, 128, kDim}), whole = run(*layer, x).slice(1, 0, 64),
                 prefix = run(*layer, x.slice(1, 0, 64));
    if (mode != std::string("seqlen")) {
      expect_near(prefix, whole, 1e-13);
      continue;
    }
    double largest = 0;
    for (int64_t i = 0; i < whole.numel(); ++i)
      largest = std::max(largest, std::abs(whole.data<double>()[i] - prefix.data<double>()[i]));
    EXPECT_GE(largest, 1e-3);
  }
}

TEST_F(AffineTest, TheRunningMeanCountsEveryMicroBatchOnceAndOnlyInTraining) {
  const auto layer = make("affine", kDim, with(base, {{"affine_ema_rho", 0.75}}));
  fill(*layer, "affine/weight", 0);
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

TEST_F(AffineTest, TheRunningMeanOfAConstantApproachesItByRho) {
  const auto layer = make("affine", kDim, base);  // rho = 0.9
  fill(*layer, "affine/weight", 0);
  const auto local = make_local_communicator();
  ctx.training = true;
  double distance = 0.5;  // from zero to alpha = 0.5
  for (int step = 0; step < 44; ++step, distance *= 0.9) {
    for (const double mean : mean_of(*layer)) EXPECT_LE(std::abs(mean - (0.5 - distance)), 1e-14);
    run(*layer, random({1, 5, kDim}));
    layer->after_step(ctx, *local, {.num_positions = 5});
  }
  EXPECT_LE(distance, 0.5 * 0.01);
}

TEST_F(AffineTest, RanksShareOneRunningMean) {
  const Tensor x = random({3, kLength, kDim});
  const auto mean_after_step = [&](Communicator& comm, const Tensor& part) {
    const auto own_stream = cpu_backend().make_stream();
    Rng own_rng{seed};
    RopeTables tables;
    Context own{.stream = *own_stream, .rng = own_rng, .training = true};
    const auto layer = make("affine", kDim, base);
    layer->forward(own, Variable(part), {.offset = 0, .count = kLength, .tables = &tables}, nullptr);
    layer->after_step(own, comm, {.num_positions = 3 * kLength});
    return mean_of(*layer);
  };
  const std::vector<double> expected = mean_after_step(*make_local_communicator(), x);
  std::vector<std::vector<double>> of_rank(2);
  run_as_threads(2, 60, [&](Communicator& comm) {
    const int64_t first = comm.rank();  // one sequence, and the two others
    of_rank[static_cast<size_t>(comm.rank())] = mean_after_step(comm, x.slice(0, first, 1 + 2 * first));
  });
  EXPECT_EQ(of_rank[0], of_rank[1]);
  for (size_t h = 0; h < expected.size(); ++h) EXPECT_LE(std::abs(of_rank[0][h] - expected[h]), 1e-15);
}

TEST_F(AffineTest, TheRunningMeanIsSavedAndLoadedBitForBit) {
  const auto layer = random_layer(Json::object());
  EXPECT_EQ(mean_of(*layer), means_);
}

TEST_F(AffineTest, AStepThatUpdatesNothingLeavesTheRunningMeanAndForgetsItsSums) {
  const auto layer = make("affine", kDim, with(base, {{"affine_ema_rho", 0.75}}));
  fill(*layer, "affine/weight", 0);
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
