// Layers of several kinds side by side.
#include "core/error.h"
#include "tests/layers/copy_state.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class ParallelTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12;

  static Json softmax() { return {{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 4}, {"window", 3}}; }
  static Json lightning() { return {{"num_heads", 3}, {"num_kv_heads", 3}, {"head_dim", 4}}; }
  static Json keys(const std::string& combine) {
    return {{"members", {"near", "lightning"}},
            {"combine", combine},
            {"near", with(softmax(), {{"kind", "softmax"}})},
            {"lightning", lightning()}};
  }
  /// The output of a layer of this kind with the parameters of a member.
  Tensor member_output(AttentionLayer& parallel, const std::string& member, const std::string& kind,
                       const Json& keys, const Tensor& x) {
    const auto alone = make(kind, kDim, keys);
    std::map<std::string, Tensor> values;
    parallel.visit("", [&](const std::string& path, Parameter& p) { values[path] = p.value; });
    alone->visit("", [&](const std::string& path, Parameter& p) {
      p.value.copy_from(values.at("members/" + member + "/" + path), *stream);
    });
    return run(*alone, x);
  }
  /// One row of D values over its root mean square, times the weight.
  static std::vector<double> normalised(const double* row, const Tensor& weight) {
    double square = 0;
    for (int64_t d = 0; d < kDim; ++d) square += row[d] * row[d];
    std::vector<double> result;
    for (int64_t d = 0; d < kDim; ++d)
      result.push_back(row[d] / std::sqrt(square / kDim + 1e-5) * weight.data<double>()[d]);
    return result;
  }
  /// += a product of one row with a [D,D] weight.
  static void add_product(double* to, const std::vector<double>& row, const Tensor& weight) {
    for (int64_t o = 0; o < kDim; ++o)
      for (int64_t d = 0; d < kDim; ++d)
        to[o] += weight.data<double>()[o * kDim + d] * row[static_cast<size_t>(d)];
  }
  std::string config_error(const Json& keys) {
    try {
      declare("parallel", kDim, keys);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  }
};

TEST_F(ParallelTest, NormalisesWhatItsMembersGiveAndPutsItTogether) {
  for (const std::string combine : {"mean", "concat"}) {
    SCOPED_TRACE(combine);
    const auto layer = make("parallel", kDim, keys(combine));
    perturb(*layer);
    const int64_t rows = 2 * 7;
    const Tensor x = random({2, 7, kDim});
    const Tensor near = member_output(*layer, "near", "softmax", softmax(), x);
    const Tensor far = member_output(*layer, "lightning", "lightning", lightning(), x);
    const Tensor expected = Tensor::zeros(x.shape(), DType::f64, *stream);
    for (int64_t i = 0; i < rows; ++i) {
      const auto one =
          normalised(near.data<double>() + i * kDim, parameter(*layer, "norms/near/weight").value);
      const auto two =
          normalised(far.data<double>() + i * kDim, parameter(*layer, "norms/lightning/weight").value);
      double* const to = expected.data<double>() + i * kDim;
      if (combine == "concat") {
        add_product(to, one, parameter(*layer, "output/near/weight").value);
        add_product(to, two, parameter(*layer, "output/lightning/weight").value);
      } else {
        std::vector<double> mean;
        for (size_t d = 0; d < one.size(); ++d) mean.push_back((one[d] + two[d]) / 2);
        add_product(to, mean, parameter(*layer, "output/weight").value);
      }
    }
    expect_near(run(*layer, x), expected, 1e-12);
  }
}

TEST_F(ParallelTest, CostsAndCachesWhatItsMembersDo) {
  const auto layer = declare("parallel", kDim, keys("mean"));
  const auto near = declare("softmax", kDim, softmax()), far = declare("lightning", kDim, lightning());
  EXPECT_EQ(layer->cache_bytes_per_token(2), near->cache_bytes_per_token(2) + far->cache_bytes_per_token(2));
  EXPECT_EQ(layer->state_bytes(2), near->state_bytes(2) + far->state_bytes(2));
  const double projection = 2.0 * 30 * kDim * kDim;
  EXPECT_DOUBLE_EQ(
      layer->cost(2, 15, 2).executed_flop.forward,
      near->cost(2, 15, 2).executed_flop.forward + far->cost(2, 15, 2).executed_flop.forward + projection);
  EXPECT_FALSE(layer->chooses());
}

TEST_F(ParallelTest, RefusesMembersThatAreNone) {
  EXPECT_EQ(config_error({{"members", {"softmax"}}, {"softmax", softmax()}}),
            "model.attention.members has 1 entries: expected two or more for parallel");
  EXPECT_EQ(config_error({{"members", {"softmax", "softmax"}}, {"softmax", softmax()}}),
            "model.attention.members names \"softmax\" twice");
  EXPECT_EQ(config_error({{"members", {"softmax", "soft"}}, {"softmax", softmax()}}),
            "model.attention.members names \"soft\": expected an attention kind, or a table of that name "
            "with a kind");
  EXPECT_EQ(config_error({{"members", {"softmax", "inner"}},
                          {"softmax", softmax()},
                          {"inner", {{"kind", "parallel"}, {"members", {"softmax", "lightning"}}}}}),
            "model.attention.members has \"inner\" of kind parallel: expected another kind");
}

}  // namespace
}  // namespace headway::testing
