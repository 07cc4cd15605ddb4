// Compressed convolutional attention: the limits in which it is another layer, how far a token reaches, the
// bound of its scores, counts.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "autograd/apply.h"
#include "autograd/ops/cca_prologue.h"
#include "autograd/ops/rope.h"
#include "core/error.h"
#include "layers/attention/causal_attention.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class CcaTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12;
  const Json grouped{{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 6}};

  /// Every parameter a random number.
  std::unique_ptr<AttentionLayer> random_layer(int64_t model_dim, const Json& keys) {
    auto layer = make("cca", model_dim, keys);
    perturb(*layer);
    return layer;
  }
  static bool equal_bits(const Tensor& a, const Tensor& b, int64_t first, int64_t count) {
    return std::memcmp(a.data<double>() + first, b.data<double>() + first,
                       static_cast<size_t>(count) * sizeof(double)) == 0;
  }
};

// Convolutions that pass through, no means, no shift: queries and keys are normalised, as QK-norm does.
TEST_F(CcaTest, WithoutItsConvolutionsItIsSoftmaxAttentionWithQkNorm) {
  const int64_t H = 4, Dh = 6;
  for (const int64_t K : {1, 2, 4}) {
    const Json shared{{"num_heads", H}, {"num_kv_heads", K}, {"head_dim", Dh}};
    const auto softmax = make("softmax", kDim, with(shared, {{"qk_norm", true}}));
    const auto cca = make("cca", kDim,
                          with(shared, {{"qk_mean", false},
                                        {"value_shift", false},
                                        {"temperature", "linear"},
                                        {"norm_eps", 1e-6 * static_cast<double>(Dh)}}));
    for (const char* name : {"query/weight", "key/weight", "value/weight", "output/weight"})
      set(*cca, name, parameter(*softmax, name).value.to_vector<double>(*stream));
    const int64_t channels = (H + K) * Dh;
    std::vector<double> current(static_cast<size_t>(2 * channels)),
        identity(static_cast<size_t>(2 * channels * Dh)), zeros(static_cast<size_t>(channels));
    for (int64_t c = 0; c < channels; ++c) {
      current[2 * c + 1] = 1;
      identity[(c * Dh + c % Dh) * 2 + 1] = 1;
    }
    set(*cca, "conv_a/weight", current);
    set(*cca, "conv_b/weight", identity);
    set(*cca, "conv_a/bias", zeros);
    set(*cca, "conv_b/bias", zeros);
    const Tensor x = random({2, 11, kDim});
    expect_near(run(*cca, x), run(*softmax, x), 1e-12);
  }
}

// With zero temperature every visible key weighs the same, and no gradient passes through the weights.
TEST_F(CcaTest, ZeroTemperatureIsTheCausalMeanOfValues) {
  const auto layer = make("cca", kDim, with(grouped, {{"temperature", "linear"}, {"value_shift", false}}));
  set(*layer, "temperature", {0, 0});
  const int64_t T = 5;
  const Tensor x = random({1, T, kDim});
  ctx.recording = true;
  const Variable y = run(*layer, Variable::leaf(x));
  const Tensor dy = random({1, T, kDim});
  backward(ctx, std::span(&y, 1), std::span(&dy, 1), MicroStep::last);
  ctx.recording = false;

  const auto value = parameter(*layer, "value/weight").value.to_vector<double>(*stream);
  const auto output = parameter(*layer, "output/weight").value.to_vector<double>(*stream);
  const Tensor expected = Tensor::zeros({1, T, kDim}, DType::f64, *stream);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t d = 0; d < 6; ++d) {
        double mean = 0;
        for (int64_t j = 0; j <= t; ++j)
          for (int64_t i = 0; i < kDim; ++i)
            mean += value[((h / 2) * 6 + d) * kDim + i] * x.data<double>()[j * kDim + i] /
                    static_cast<double>(t + 1);
        for (int64_t o = 0; o < kDim; ++o)
          expected.data<double>()[t * kDim + o] += output[o * 24 + h * 6 + d] * mean;
      }
  expect_near(y.value(), expected, 1e-12);
  for (const char* name : {"query/weight", "key/weight", "conv_a/weight", "conv_b/bias"}) {
    double largest = 0;
    for (const double g : parameter(*layer, name).gradient->grad.to_vector<double>(*stream))
      largest = std::max(largest, std::abs(g));
    // Queries still meet zero keys; what is left is rounding of sums that cancel.
    EXPECT_LE(largest, 1e-12) << name;
  }
  for (const double g : parameter(*layer, "temperature").gradient->grad.to_vector<double>(*stream))
    EXPECT_GT(std::abs(g), 1e-9);
}

// A single visible key has weight one: the first half of the value row is the token's, the second the one
// before's.
TEST_F(CcaTest, AWindowOfOneKeyShowsTheShiftedValues) {
  const int64_t H = 4, Dh = 6, dim = H * Dh, T = 7;
  const auto layer =
      random_layer(dim, {{"num_heads", H}, {"num_kv_heads", H}, {"head_dim", Dh}, {"window", 1}});
  std::vector<double> identity(static_cast<size_t>(dim * dim));
  for (int64_t i = 0; i < dim; ++i) identity[i * dim + i] = 1;
  set(*layer, "output/weight", identity);
  const auto weight = parameter(*layer, "value/weight").value.to_vector<double>(*stream);
  const Tensor x = random({1, T, dim}), y = run(*layer, x);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t c = 0; c < dim; ++c) {
      const int64_t source = c < dim / 2 ? t : t - 1;
      double expected = 0;
      for (int64_t i = 0; source >= 0 && i < dim; ++i)
        expected += weight[c * dim + i] * x.data<double>()[source * dim + i];
      EXPECT_TRUE(std::abs(y.data<double>()[t * dim + c] - expected) <= 1e-12) << t << " " << c;
    }
  const int64_t changed = 3;
  const Tensor other = x.clone(*stream);
  for (int64_t i = 0; i < dim; ++i) other.data<double>()[changed * dim + i] += 1;
  const Tensor after = run(*layer, other);
  for (int64_t t = 0; t < T; ++t) {
    EXPECT_EQ(equal_bits(y, after, t * dim, dim / 2), t != changed) << t;
    EXPECT_EQ(equal_bits(y, after, t * dim + dim / 2, dim / 2), t != changed + 1) << t;
  }
}

// A token reaches K0 + K1 - 2 keys on, or one value on, and each of them window - 1 queries.
TEST_F(CcaTest, ATokenReachesAsFarAsTapsAndWindow) {
  for (const Json& widths : {Json{1, 1}, Json{2, 2}, Json{3, 2}}) {
    SCOPED_TRACE(widths.dump());
    const int64_t T = 12, window = 3, changed = 2,
                  taps = widths[0].get<int64_t>() + widths[1].get<int64_t>() - 2;
    const int64_t last = changed + std::max<int64_t>(taps, 1) + window - 1;
    const auto layer = random_layer(kDim, with(grouped, {{"window", window}, {"conv_widths", widths}}));
    const Tensor x = random({1, T, kDim}), before = run(*layer, x);
    for (int64_t i = 0; i < kDim; ++i) x.data<double>()[changed * kDim + i] += 1;
    const Tensor after = run(*layer, x);
    for (int64_t t = 0; t < T; ++t)
      EXPECT_EQ(equal_bits(before, after, t * kDim, kDim), t < changed || t > last) << t;
  }
}

// A group of heads is as many heads that each have a copy of its keys and values. Queries before the
// convolutions are alike within a group, so that the mean over the group is that of each.
TEST_F(CcaTest, AGroupOfHeadsSharesKeysAndValues) {
  const int64_t H = 4, K = 2, Dh = 6, G = H / K;
  const auto layer = random_layer(kDim, grouped),
             repeated = random_layer(kDim, with(grouped, {{"num_kv_heads", H}}));
  auto query = parameter(*layer, "query/weight").value.to_vector<double>(*stream);
  const int64_t head_size = Dh * kDim;
  for (int64_t h = 0; h < H; ++h)
    std::copy_n(query.begin() + h / G * G * head_size, head_size, query.begin() + h * head_size);
  set(*layer, "query/weight", query);
  layer->visit("", [&](const std::string& path, Parameter& p) {
    const std::vector<double> values = p.value.to_vector<double>(*stream);
    const int64_t repeated_size = parameter(*repeated, path).value.numel();
    const int64_t block =
        (repeated_size - p.value.numel()) / (H - K);  // numbers per head; 0: of queries alone
    const int64_t kept = block ? p.value.numel() - K * block : p.value.numel();
    std::vector<double> copies(values.begin(), values.begin() + kept);
    for (int64_t h = 0; block && h < H; ++h)
      copies.insert(copies.end(), values.begin() + kept + h / G * block,
                    values.begin() + kept + (h / G + 1) * block);
    set(*repeated, path, copies);
  });
  const Tensor x = random({2, 9, kDim});
  expect_near(run(*layer, x), run(*repeated, x), 1e-12);
}

// |q.k| / sqrt(Dh) <= |beta| sqrt(Dh) whatever the inputs, so a softmax may use that for its maximum; and the
// gradient of a factor beta of the scores is beta dbeta = sum of dS S over the group.
TEST_F(CcaTest, ScoresAreBoundedByTheTemperature) {
  const int64_t B = 1, T = 11, H = 4, K = 2, Dh = 6, channels = (H + K) * Dh;
  const double root = std::sqrt(static_cast<double>(Dh));
  for (const auto kind : {CcaTemperature::exponential, CcaTemperature::linear}) {
    const auto leaf = [&](const Shape& shape, double scale) { return Variable::leaf(random(shape, scale)); };
    const Variable temperature = leaf({K}, 0.7), value = leaf({B, T, K, Dh}, 1);
    ctx.recording = true;
    const auto [q, k] =
        apply<CcaPrologue>(ctx, {.temperature = kind}, leaf({B, T, H, Dh}, 30), leaf({B, T, K, Dh}, 30),
                           leaf({channels, 2}, 1), leaf({channels}, 1), leaf({H + K, Dh, Dh, 2}, 1),
                           leaf({channels}, 1), temperature, Tensor(), Tensor());
    const Positions positions{.offset = 5, .count = T, .tables = &rope_tables};
    const Tensor table = positions.rope(10000, Dh, DType::f64, *stream);
    const Variable query = apply<Rope>(ctx, {}, q, table), key = apply<Rope>(ctx, {}, k, table);
    const Variable y = causal_attention(ctx, {.q = query, .k = key, .v = value}, {});
    const Tensor dy = random(y.shape());
    backward(ctx, std::span(&y, 1), std::span(&dy, 1), MicroStep::last);
    ctx.recording = false;

    const auto row = [](const Tensor& x, int64_t t, int64_t h) {
      return x.data<double>() + (t * x.size(2) + h) * x.size(3);
    };
    const auto dot = [&](const double* a, const double* b) {
      double sum = 0;
      for (int64_t d = 0; d < Dh; ++d) sum += a[d] * b[d];
      return sum;
    };
    const Tensor expected = Tensor::zeros(y.shape(), DType::f64, *stream);
    std::vector<double> scored(K), sizes(K), betas(K);
    for (int64_t g = 0; g < K; ++g) {
      const double parameter = temperature.value().data<double>()[g];
      betas[g] = kind == CcaTemperature::exponential ? std::exp(parameter) : parameter;
    }
    for (int64_t t = 0; t < T; ++t)
      for (int64_t h = 0; h < H; ++h) {
        const int64_t g = h * K / H;
        const double bound = std::abs(betas[g]) * root;
        EXPECT_NEAR(std::sqrt(dot(row(query.value(), t, h), row(query.value(), t, h))), root, 1e-12);
        EXPECT_NEAR(std::sqrt(dot(row(key.value(), t, g), row(key.value(), t, g))), bound,
                    1e-12 * (1 + bound));
        std::vector<double> scores, weights;
        double sum = 0, mean = 0;
        for (int64_t j = 0; j <= t; ++j) {
          scores.push_back(dot(row(query.value(), t, h), row(key.value(), j, g)) / root);
          EXPECT_LE(std::abs(scores.back()), bound * (1 + 1e-12));
          weights.push_back(std::exp(scores.back() - bound));
          sum += weights.back();
        }
        for (int64_t j = 0; j <= t; ++j) {
          weights[j] /= sum;
          for (int64_t d = 0; d < Dh; ++d) row(expected, t, h)[d] += weights[j] * row(value.value(), j, g)[d];
          mean += weights[j] * dot(row(dy, t, h), row(value.value(), j, g));
        }
        for (int64_t j = 0; j <= t; ++j) {
          const double term = weights[j] * (dot(row(dy, t, h), row(value.value(), j, g)) - mean) * scores[j];
          scored[g] += term, sizes[g] += std::abs(term);
        }
      }
    expect_near(y.value(), expected, 1e-12);
    for (int64_t g = 0; g < K; ++g) {
      const double factor = kind == CcaTemperature::exponential ? 1 : betas[g];
      EXPECT_TRUE(std::abs(factor * temperature.grad().data<double>()[g] - scored[g]) <= 1e-11 * sizes[g])
          << g;
    }
  }
}

TEST_F(CcaTest, CountsOfAPublishedLayer) {
  const auto layer = declare("cca", 2048, {{"num_heads", 8}, {"num_kv_heads", 2}, {"head_dim", 128}});
  EXPECT_EQ(num_parameters(*layer), 5575682);
  EXPECT_EQ(num_parameters(*declare("cca", 2048, {{"num_heads", 4}, {"num_kv_heads", 4}, {"head_dim", 128}})),
            4460548);
  EXPECT_EQ(layer->cache_bytes_per_token(2), 4 * 2 * 128);
  EXPECT_EQ(layer->state_bytes(2), 2 * (2 * 10 * 128 + 2 * 128));
  const double T = 4096, channels = 10 * 128;
  const double projections = 4 * 2048 * channels, convolutions = 2 * channels * (2 + 128 * 2);
  const Cost cost = layer->cost(1, 4096, 2);
  EXPECT_NEAR(cost.ideal_flop.forward / T, projections + convolutions + 4 * 1024 * (T + 1) / 2, 1e-3);
}

TEST_F(CcaTest, RefusesKeysThatExcludeEachOther) {
  const auto refuses = [&](const Json& more) {
    EXPECT_THROW(declare("cca", kDim, with(grouped, more)), ConfigError) << more.dump();
  };
  refuses({{"qk_norm", true}});
  refuses({{"bias", true}});
  refuses({{"conv_widths", {2}}});
  refuses({{"conv_widths", {2, 2, 2}}});
  refuses({{"num_kv_heads", 1}, {"head_dim", 5}});
}

}  // namespace
}  // namespace headway::testing
