// Small models in which a layer chooses keys or heads by comparing numbers, and a text for them, on any
// device.
#pragma once

#include <algorithm>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "layers/model.h"
#include "tests/layers/json_fields.h"
#include "tests/support/from_doubles.h"

namespace headway::testing {

struct ChoosingModel {
  std::string name;
  nlohmann::json attention;
  int64_t model_dim = 24;
  bool gpt2_style = false;  // GELU, LayerNorm, biases, learned positions
};
inline std::ostream& operator<<(std::ostream& out, const ChoosingModel& row) { return out << row.name; }

inline std::vector<ChoosingModel> choosing_models() {
  return {
      {"dynamic_mask", {{"kind", "dynamic_mask"}, {"num_heads", 4}, {"num_kv_heads", 2}, {"top_w", 6}}},
      {"dynamic_mask_wide", {{"kind", "dynamic_mask"}, {"num_heads", 2}, {"top_w", 40}}, 128},
      {"dynamic_mask_linear",
       {{"kind", "dynamic_mask"}, {"num_heads", 3}, {"top_w", 20}, {"bias_mode", "linear"}, {"rope", false}},
       24,
       true},
      {"moh", {{"kind", "moh"}, {"num_heads", 6}, {"num_kv_heads", 2}}},
      {"moh_window",
       {{"kind", "moh"}, {"num_heads", 6}, {"window", 11}, {"gate_mode", "paper"}, {"rope", false}},
       24,
       true},
      {"hybrid",
       {{"kind", "softmax"},
        {"num_heads", 4},
        {"sink", true},
        {"short_conv", 3},
        {"layers", {"softmax", "moh", "dynamic_mask"}},
        {"dynamic_mask", {{"top_w", 5}}}}}};
}

class ChoosingCase {
 public:
  /// More tokens than a tile of the attention kernels has rows, of few symbols, so that equal ones meet
  /// often.
  static constexpr int64_t kVocab = 5, kLength = 83;

  ChoosingCase(const ChoosingModel& row, DType dtype, Stream& stream, uint32_t seed)
      : stream_(stream), rng_(seed) {
    ModelConfig config;
    config.num_layers = 3;
    config.model_dim = row.model_dim;
    if (row.gpt2_style) {
      config.mlp = "gelu";
      config.norm = "layer_norm";
      config.bias = true;
      config.learned_positions = true;
    }
    JsonFields fields(row.attention);
    config.attention.describe(fields);
    fields.check_all_used();
    config.resolve(kVocab, kLength);
    model_ = std::make_unique<Model>(config);
    model_->materialize(dtype, seed, stream);
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0, 1.5 / std::sqrt(static_cast<double>(row.model_dim)));
    model_->visit("", [&](const std::string&, Parameter& p) {
      std::vector<double> values = to_doubles(p.value, stream);
      for (double& value : values) value += normal(random);
      p.value.copy_from(from_doubles(values, p.shape, p.value.dtype(), stream), stream);
    });
    model_->round_weights(stream);
    for (int64_t i = 0; i < kLength; ++i) text.push_back(static_cast<int32_t>(random() % kVocab));
  }

  /// After the first `length` tokens, read in segments of so many.
  std::vector<double> logits(int64_t length, int64_t segment) {
    Context ctx{.stream = stream_, .rng = rng_};
    DecodeState state = model_->make_state(1, kLength, stream_.device());
    Tensor last;
    for (int64_t first = 0; first < length; first += segment) {
      const int64_t end = std::min(first + segment, length);
      const std::vector<int32_t> tokens(text.begin() + first, text.begin() + end);
      last = model_->next_logits(ctx, Tensor::from<int32_t>(tokens, {1, end - first}, stream_), state);
    }
    return to_doubles(last, stream_);
  }
  /// The last layer's outputs for the text, alone (copies = 1) or as the first of a batch of rotated copies.
  std::vector<double> hidden(int64_t copies) {
    Context ctx{.stream = stream_, .rng = rng_};
    std::vector<int32_t> batch, row = text;
    for (int64_t b = 0; b < copies; ++b) {
      batch.insert(batch.end(), row.begin(), row.end());
      std::rotate(row.begin(), row.begin() + 1, row.end());
    }
    const Variable x =
        model_->hidden(ctx, Tensor::from<int32_t>(batch, {copies, kLength}, stream_), Recompute::off);
    return to_doubles(x.value().slice(0, 0, 1), stream_);
  }

  std::vector<int32_t> text;

 private:
  Stream& stream_;
  Rng rng_;
  std::unique_ptr<Model> model_;
};

}  // namespace headway::testing
