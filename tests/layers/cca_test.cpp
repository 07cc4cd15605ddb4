// Compressed convolutional attention: the limits in which it is another layer, counts.
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class CcaTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12;
  const Json grouped{{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 6}};
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

TEST_F(CcaTest, CountsOfAPublishedLayer) {
  const auto layer = declare("cca", 2048, {{"num_heads", 8}, {"num_kv_heads", 2}, {"head_dim", 128}});
  EXPECT_EQ(num_parameters(*layer), 5575682);
  EXPECT_EQ(layer->cache_bytes_per_token(2), 4 * 2 * 128);
  EXPECT_EQ(layer->state_bytes(2), 2 * (2 * 10 * 128 + 2 * 128));
  const double T = 4096, channels = 10 * 128;
  const double projections = 4 * 2048 * channels, convolutions = 2 * channels * (2 + 128 * 2);
  const Cost cost = layer->cost(1, 4096, 2);
  EXPECT_NEAR(cost.forward_flop / T, projections + convolutions + 4 * 1024 * (T + 1) / 2, 1e-3);
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
