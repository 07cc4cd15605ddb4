// Short convolutions of queries, keys and values, in every kind that has the key.
#include "layers/attention/short_conv.h"

#include "core/error.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

/// Keys of a kind without what reads the layer's input beside queries, keys and values.
struct ConvolvedKind {
  std::string kind;
  Json keys;
};
std::ostream& operator<<(std::ostream& out, const ConvolvedKind& row) { return out << row.kind; }

class ShortConv : public LayerTest, public ::testing::WithParamInterface<ConvolvedKind> {
 protected:
  static constexpr int64_t kDim = 12, kTaps = 3;

  Json keys(int64_t taps) const { return with(GetParam().keys, {{"short_conv", taps}}); }
  /// Two layers with the same parameters, with convolutions whose taps are alike in all channels, and
  /// without.
  void make_pair(const std::vector<double>& taps) {
    plain = make(GetParam().kind, kDim, keys(0));
    perturb(*plain);
    convolved = make(GetParam().kind, kDim, keys(kTaps));
    copy_parameters(*plain, *convolved);
    for (const char* const name : {"query_conv/weight", "key_conv/weight", "value_conv/weight"}) {
      const Tensor& weight = parameter(*convolved, name).value;
      for (int64_t i = 0; i < weight.numel(); ++i)
        weight.data<double>()[i] = taps[static_cast<size_t>(i % kTaps)];
    }
  }

  std::unique_ptr<AttentionLayer> plain, convolved;
};

TEST_P(ShortConv, TheLastTapAloneChangesNothing) {
  make_pair({0, 0, 1});
  const Tensor x = random({2, 7, kDim});
  expect_near(run(*convolved, x), run(*plain, x), 1e-13);
}

// Projections are the same for every token, so a convolution before them is one after them.
TEST_P(ShortConv, ConvolvingAllChannelsAlikeIsConvolvingTheInput) {
  const std::vector<double> taps{0.5, -0.75, 1.25};
  make_pair(taps);
  const int64_t B = 2, T = 6;
  const Tensor x = random({B, T, kDim}), sum = Tensor::zeros(x.shape(), DType::f64, *stream);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t)
      for (int64_t j = 0; j < kTaps; ++j) {
        const int64_t from = t - (kTaps - 1) + j;
        for (int64_t d = 0; from >= 0 && d < kDim; ++d)
          sum.data<double>()[(b * T + t) * kDim + d] +=
              taps[static_cast<size_t>(j)] * x.data<double>()[(b * T + from) * kDim + d];
      }
  expect_near(run(*convolved, x), run(*plain, sum), 1e-12);
}

TEST_P(ShortConv, DecodingKeepsTheRowsThatTheTapsReach) {
  constexpr int64_t kBytes = 2;
  make_pair({1, 1, 1});
  const auto channels = [&](const std::string& name) { return parameter(*plain, name + "/weight").shape[0]; };
  EXPECT_EQ(convolved->state_bytes(kBytes) - plain->state_bytes(kBytes),
            (kTaps - 1) * (channels("query") + channels("key") + channels("value")) * kBytes);
  EXPECT_EQ(num_parameters(*convolved) - num_parameters(*plain),
            kTaps * (channels("query") + channels("key") + channels("value")));
  EXPECT_GT(convolved->cost(1, 64, kBytes).saved_bytes, plain->cost(1, 64, kBytes).saved_bytes);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, ShortConv,
    ::testing::Values(ConvolvedKind{"softmax", {{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 4}}},
                      ConvolvedKind{"hedgehog", {{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 6}}},
                      ConvolvedKind{
                          "lightning",
                          {{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 6}, {"gate", "none"}}}),
    [](const auto& test) { return test.param.kind; });

class ShortConvOfATeacher : public LayerTest {};

TEST_F(ShortConvOfATeacher, DecodingEqualsOnePass) {
  auto layer =
      make("hedgehog", 12,
           {{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 6}, {"short_conv", 4}, {"transfer", true}});
  perturb(*layer);
  expect_decoding_equals_one_pass(*layer, 12);
}

}  // namespace
}  // namespace headway::testing
