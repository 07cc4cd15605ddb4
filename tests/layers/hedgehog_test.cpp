// Hedgehog: its definition in plain loops, the identities of its maps and weights, its state, counts.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/loss_collector.h"
#include "core/error.h"
#include "layers/attention/recurrent_state.h"
#include "tests/layers/layer_test.h"

namespace headway::testing {
namespace {

using Json = nlohmann::json;

class HedgehogTest : public LayerTest {
 protected:
  static constexpr int64_t kDim = 12;
  const Json plain{{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 6}};
  std::unique_ptr<AttentionLayer> random_layer(const Json& keys) {
    auto layer = make("hedgehog", kDim, keys);
    perturb(*layer);
    return layer;
  }
  /// x is the value and the output is the attention's.
  void pass_values_through(AttentionLayer& layer) {
    std::vector<double> identity(static_cast<size_t>(kDim * kDim));
    for (int64_t i = 0; i < kDim; ++i) identity[i * kDim + i] = 1;
    set(layer, "value/weight", identity);
    set(layer, "output/weight", identity);
  }
  /// x [1,T,D] -> query or key features [T,H,2*Df] of a layer without rotation.
  std::vector<double> features(AttentionLayer& layer, const std::string& name, const std::string& kind,
                               const Tensor& x) {
    const auto projection = parameter(layer, name + "/weight").value.to_vector<double>(*stream);
    const Tensor map = parameter(layer, name + "_map/weight").value,
                 bias = parameter(layer, name + "_map/bias").value;
    const int64_t T = x.size(1), H = map.size(0), Df = map.size(1), Dh = map.size(2);
    std::vector<double> all;
    for (int64_t t = 0; t < T; ++t)
      for (int64_t h = 0; h < H; ++h) {
        std::vector<double> u(bias.data<double>() + h * Df, bias.data<double>() + (h + 1) * Df);
        for (int64_t d = 0; d < Dh; ++d) {
          double value = 0;
          for (int64_t i = 0; i < kDim; ++i)
            value += projection[(h * Dh + d) * kDim + i] * x.data<double>()[t * kDim + i];
          for (int64_t f = 0; f < Df; ++f) u[f] += map.data<double>()[(h * Df + f) * Dh + d] * value;
        }
        const double top = *std::max_element(u.begin(), u.end()),
                     bottom = *std::min_element(u.begin(), u.end());
        double plus = 0, minus = 0, joint = 0;
        for (const double value : u) {
          plus += std::exp(value), minus += std::exp(-value);
          joint += std::exp(2 * value) + std::exp(-2 * value);
        }
        for (const double sign : {1.0, -1.0})
          for (const double value : u)
            all.push_back(kind == "softmax" ? std::exp(sign * value) / (sign > 0 ? plus : minus)
                          : kind == "exp"   ? std::exp(sign * value)
                          : kind == "joint" ? std::exp(2 * sign * value) / joint
                                            : std::exp(sign * (value - (sign > 0 ? top : bottom))));
      }
    return all;
  }
  void negate(AttentionLayer& layer, const std::string& path) {
    auto values = parameter(layer, path).value.to_vector<double>(*stream);
    for (double& value : values) value = -value;
    set(layer, path, values);
  }
};

// More tokens than a chunk has, with and without eps; and the state is the sum of key features times values
// and one, which a kind may hold divided by exp(log_scale).
TEST_F(HedgehogTest, EveryMapIsItsDefinition) {
  const int64_t T = 70, H = 2, Df = 5, F = 2 * Df, Dh = 6;
  for (const std::string kind : {"softmax", "exp", "expmax", "joint"})
    for (const double eps : {0.0, 0.1}) {
      SCOPED_TRACE(kind + " eps " + std::to_string(eps));
      const auto layer = random_layer(with(plain, {{"feature_map", kind},
                                                   {"feature_dim", Df},
                                                   {"map_bias", true},
                                                   {"normaliser_eps", eps},
                                                   {"rope", false}}));
      pass_values_through(*layer);
      const Tensor x = random({1, T, kDim}), expected = Tensor::zeros(x.shape(), DType::f64, *stream);
      const auto fq = features(*layer, "query", kind, x), fk = features(*layer, "key", kind, x);
      std::vector<double> sums(static_cast<size_t>(H * F * (Dh + 1)));
      for (int64_t t = 0; t < T; ++t)
        for (int64_t h = 0; h < H; ++h) {
          double denominator = eps;
          std::vector<double> numerator(Dh);
          for (int64_t j = 0; j <= t; ++j) {
            double weight = 0;
            for (int64_t f = 0; f < F; ++f) weight += fq[(t * H + h) * F + f] * fk[(j * H + h) * F + f];
            denominator += weight;
            for (int64_t d = 0; d < Dh; ++d) numerator[d] += weight * x.data<double>()[j * kDim + h * Dh + d];
          }
          for (int64_t d = 0; d < Dh; ++d)
            expected.data<double>()[t * kDim + h * Dh + d] = numerator[d] / denominator;
          for (int64_t f = 0; f < F; ++f)
            for (int64_t d = 0; d <= Dh; ++d)
              sums[(h * F + f) * (Dh + 1) + d] +=
                  fk[(t * H + h) * F + f] * (d < Dh ? x.data<double>()[t * kDim + h * Dh + d] : 1);
        }
      const auto state = layer->make_state(1, T, DType::f64, Device{});
      expect_near(run(*layer, Variable(x), state.get()).value(), expected, 1e-11);
      const auto& past = static_cast<const RecurrentState&>(*state);
      std::vector<double> held = past.matrix.value().to_vector<double>(*stream);
      for (size_t i = 0; past.log_scale && i < held.size(); ++i)
        held[i] *= std::exp(past.log_scale.data<double>()[static_cast<int64_t>(i) / (F * (Dh + 1))]);
      expect_near(Tensor::from<double>(held, past.matrix.shape(), *stream),
                  Tensor::from<double>(sums, past.matrix.shape(), *stream), 1e-11);
    }
}

// Weights are positive and sum to one: outputs lie among the values so far.
TEST_F(HedgehogTest, OutputsLieInTheHullOfTheValues) {
  for (const char* map : {"softmax", "exp", "expmax", "joint"}) {
    SCOPED_TRACE(map);
    const auto layer = random_layer(with(plain, {{"feature_map", map}, {"normaliser_eps", 0}}));
    pass_values_through(*layer);
    const int64_t T = 11;
    const Tensor x = random({1, T, kDim}), y = run(*layer, x);
    for (int64_t c = 0; c < kDim; ++c) {
      double smallest = x.data<double>()[c], largest = smallest;
      for (int64_t t = 0; t < T; ++t) {
        smallest = std::min(smallest, x.data<double>()[t * kDim + c]);
        largest = std::max(largest, x.data<double>()[t * kDim + c]);
        EXPECT_GE(y.data<double>()[t * kDim + c], smallest - 1e-10);
        EXPECT_LE(y.data<double>()[t * kDim + c], largest + 1e-10);
      }
    }
  }
}

TEST_F(HedgehogTest, WithoutMapsItIsTheRunningMean) {
  for (const char* map : {"softmax", "exp", "expmax", "joint"}) {
    const auto layer = make("hedgehog", kDim, with(plain, {{"feature_map", map}, {"normaliser_eps", 0}}));
    pass_values_through(*layer);
    for (const char* name : {"query_map/weight", "key_map/weight"}) fill(*layer, name, 0);
    const int64_t T = 70;
    const Tensor x = random({1, T, kDim}), expected = Tensor::zeros(x.shape(), DType::f64, *stream);
    for (int64_t c = 0; c < kDim; ++c) {
      double sum = 0;
      for (int64_t t = 0; t < T; ++t) {
        sum += x.data<double>()[t * kDim + c];
        expected.data<double>()[t * kDim + c] = sum / static_cast<double>(t + 1);
      }
    }
    expect_near(run(*layer, x), expected, 1e-11);
  }
}

// The halves of the features change places.
TEST_F(HedgehogTest, TheSignOfBothMapsDoesNotMatter) {
  for (const char* map : {"softmax", "exp", "expmax", "joint"}) {
    SCOPED_TRACE(map);
    const auto layer = random_layer(with(plain, {{"feature_map", map}, {"map_bias", true}}));
    const Tensor x = random({2, 7, kDim}), before = run(*layer, x);
    for (const char* path : {"query_map/weight", "query_map/bias", "key_map/weight", "key_map/bias"})
      negate(*layer, path);
    expect_near(run(*layer, x), before, 1e-12);
  }
}

// A common factor of a query's features cancels: for queries the shift of expmax is that of exp, for keys
// not.
TEST_F(HedgehogTest, ShiftingFeaturesPerKeyChangesTheFunction) {
  const auto shifted = random_layer(with(plain, {{"feature_map", "expmax"}, {"normaliser_eps", 0}}));
  const auto exact = make("hedgehog", kDim, with(plain, {{"feature_map", "exp"}, {"normaliser_eps", 0}}));
  shifted->visit("", [&](const std::string& path, Parameter& p) {
    set(*exact, path, p.value.to_vector<double>(*stream));
  });
  const Tensor x = random({1, 7, kDim}), a = run(*shifted, x), b = run(*exact, x);
  double largest = 0;
  for (int64_t i = 0; i < a.numel(); ++i)
    largest = std::max(largest, std::abs(a.data<double>()[i] - b.data<double>()[i]));
  EXPECT_GT(largest, 1e-3);
}

TEST_F(HedgehogTest, MapsStartAsTheIdentity) {
  for (const int64_t rows : {4, 6, 9}) {
    const auto layer = make("hedgehog", kDim, with(plain, {{"feature_dim", rows}}));
    const auto weight = parameter(*layer, "key_map/weight").value.to_vector<double>(*stream);
    ASSERT_EQ(weight.size(), static_cast<size_t>(2 * rows * 6));
    for (int64_t h = 0; h < 2; ++h)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < 6; ++c) EXPECT_EQ(weight[(h * rows + r) * 6 + c], r == c ? 1 : 0);
  }
}

// Llama-2 7B: maps of 32 heads are 2 * 128^2 weights each, 0.495 % of the model over 32 layers.
TEST_F(HedgehogTest, CountsOfAPublishedLayer) {
  const auto layer = declare("hedgehog", 4096, {{"num_heads", 32}, {"num_kv_heads", 32}, {"head_dim", 128}});
  EXPECT_EQ(num_parameters(*layer), 4 * 4096 * 4096 + 32 * 2 * 128 * 128);
  EXPECT_EQ(layer->cache_bytes_per_token(2), 0);
  EXPECT_EQ(layer->state_bytes(2), 32 * 256 * 129 * 4);
  // Per token and head at chunks of 64: 180,224 operations in the core, 4 * 128 * 128 in the maps.
  const Cost cost = layer->cost(1, 1, 2);
  EXPECT_NEAR(cost.executed_flop.forward, 8.0 * 4096 * 4096 + 32 * (180224 + 65536), 1e-3);
  EXPECT_NEAR(cost.executed_flop.backward, 16.0 * 4096 * 4096 + 32 * (458752 + 2 * 65536), 1e-3);
}

// Queries that share a key and a value are those of a layer that holds them once for each.
TEST_F(HedgehogTest, GroupedQueriesEqualRepeatedKeysAndValues) {
  for (const bool transfer : {false, true})
    for (const bool has_bias : {false, true}) {
      SCOPED_TRACE("transfer " + std::to_string(transfer) + ", bias " + std::to_string(has_bias));
      const Json keys{{"num_heads", 6},  {"num_kv_heads", 2}, {"head_dim", 4},       {"bias", has_bias},
                      {"qk_norm", true}, {"short_conv", 2},   {"transfer", transfer}};
      const auto grouped = random_layer(keys),
                 whole = make("hedgehog", kDim, with(keys, {{"num_kv_heads", 6}}));
      grouped->visit("", [&](const std::string& path, Parameter& p) {
        const std::vector<double> from = p.value.to_vector<double>(*stream);
        const auto target = static_cast<size_t>(parameter(*whole, path).value.numel());
        std::vector<double> to = from;
        if (target > from.size()) {  // of keys or values: 2 heads of 4 rows, each for 3 queries
          const size_t head = from.size() / 2;
          to.clear();
          for (size_t h = 0; h < 6; ++h)
            to.insert(to.end(), from.begin() + static_cast<ptrdiff_t>(h / 3 * head),
                      from.begin() + static_cast<ptrdiff_t>((h / 3 + 1) * head));
        }
        set(*whole, path, to);
      });
      const Tensor x = random({2, 9, kDim});
      expect_near(run(*grouped, x), run(*whole, x), 1e-12);
      if (!transfer) continue;
      const auto divergence = [&](AttentionLayer& layer) {
        LossCollector losses;
        Context training{.stream = *stream, .rng = rng, .training = true, .auxiliary = &losses};
        layer.forward(training, Variable(x), {.offset = 0, .count = 9, .tables = &rope_tables}, nullptr);
        return losses.losses().at(0).loss.value().to_vector<double>(*stream)[0];
      };
      EXPECT_NEAR(divergence(*grouped), divergence(*whole), 1e-12);
    }
}

TEST_F(HedgehogTest, RefusesKeysItDoesNotHave) {
  EXPECT_THROW(declare("hedgehog", kDim, with(plain, {{"window", 4}})), ConfigError);
}

}  // namespace
}  // namespace headway::testing
