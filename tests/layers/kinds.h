// One row per kind of attention: the settings under which the generic tests run it. A new kind adds its row.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "tests/layers/json_fields.h"

namespace headway::testing {

struct KindCase {
  std::string kind;
  nlohmann::json base;                   // keys of every setting
  std::vector<nlohmann::json> settings;  // what each changes
  double gradient_limit = 1e-8;          // larger where higher derivatives are
  /// Whether a rounding error may change a choice (of keys, of heads, of a largest channel).
  bool (*chooses)(const nlohmann::json& keys) = [](const nlohmann::json&) { return false; };
  bool recurrent = false;  // gradients pass through the state between segments
};

inline std::ostream& operator<<(std::ostream& out, const KindCase& row) { return out << row.kind; }

constexpr int64_t kKindModelDim = 12;

inline const std::vector<KindCase>& all_kind_cases() {
  using Json = nlohmann::json;
  const Json grouped{{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 4}};
  const Json two_heads{{"num_heads", 2}, {"num_kv_heads", 2}, {"head_dim", 6}};
  const Json near_and_lightning{{"members", {"near", "lightning"}},
                                {"near", with(grouped, {{"kind", "softmax"}, {"window", 3}})},
                                {"lightning", two_heads}};
  static const std::vector<KindCase> rows{
      {.kind = "affine",
       .base = grouped,
       .settings = {Json::object(),
                    {{"affine_act", "sigmoid"}, {"affine_n_mode", "visible"}, {"window", 3}},
                    {{"affine_beta", false}, {"affine_bias", true}, {"window", 4}},
                    {{"affine_n_fixed", 9}, {"gate_position", "g1"}, {"qk_norm", true}},
                    {{"gate_position", "g1"}, {"gate_granularity", "headwise"}, {"affine_act", "sigmoid"}}}},
      {.kind = "alibi",
       .base = grouped,
       .settings = {Json::object(),
                    {{"window", 3}, {"rope", true}},
                    {{"num_kv_heads", 1}, {"qk_norm", true}}}},
      {.kind = "cca",
       .base = {{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 6}},
       .settings = {Json::object(),
                    {{"temperature", "linear"}, {"rope_fraction", 1.0 / 3}, {"conv_widths", {3, 2}}},
                    {{"num_kv_heads", 1}, {"conv_widths", {2, 3}}, {"rope", false}},
                    {{"num_kv_heads", 4}, {"qk_mean", false}, {"value_shift", false}, {"window", 4}},
                    {{"conv_widths", {1, 1}}}}},
      {.kind = "differential",
       .base = grouped,
       .settings = {Json::object(),
                    {{"num_kv_heads", 4}, {"window", 3}},
                    {{"qk_norm", true}, {"rope", false}}}},
      {.kind = "dynamic_mask",
       .base = with(grouped, {{"top_w", 3}}),
       .settings = {Json::object(),
                    {{"bias_mode", "linear"}, {"score_bias", true}},
                    {{"top_w", 2}, {"qk_norm", false}},
                    {{"top_w", 50}}},
       .gradient_limit = 1e-7,
       .chooses = [](const Json&) { return true; }},
      {.kind = "gated",
       .base = grouped,
       .settings = {Json::object(),
                    {{"gate_granularity", "headwise"}},
                    {{"gate_position", "g2"}},
                    {{"gate_position", "g2"}, {"gate_granularity", "headwise"}, {"gate_input", "none"}},
                    {{"gate_position", "g3"}},
                    {{"gate_position", "g3"}, {"gate_granularity", "headwise"}},
                    {{"gate_position", "g4"}},
                    {{"gate_position", "g4"}, {"gate_granularity", "headwise"}},
                    {{"gate_position", "g5"}},
                    {{"gate_heads", "shared_mean_post"}, {"gate_act", "ns_sigmoid"}},
                    {{"gate_heads", "shared_mean_pre"}, {"gate_act", "ns_sigmoid"}},
                    {{"gate_combine", "add"}, {"gate_act", "silu"}, {"qk_norm", true}, {"window", 3}},
                    {{"gate_input", "none"}},
                    {{"gate_input_dims", 5}, {"gate_bias", true}, {"gate_act", "identity"}}}},
      {.kind = "hedgehog",
       .base = two_heads,
       .settings =
           {Json::object(),
            {{"feature_map", "exp"}, {"map_bias", true}},
            {{"feature_map", "expmax"}, {"feature_dim", 4}, {"rope", false}},
            // Joint features of a query and a key may hardly overlap: without the added constant, their
            // product divides by nearly zero and difference quotients say nothing.
            {{"feature_map", "joint"}, {"feature_dim", 9}, {"map_bias", true}, {"normaliser_eps", 1e-3}},
            {{"normaliser_eps", 0.1}, {"rope_fraction", 2.0 / 3}},
            {{"short_conv", 3}},
            {{"feature_map", "exp"}, {"short_conv", 1}},
            {{"num_heads", 4}, {"qk_norm", true}, {"short_conv", 2}},
            {{"num_kv_heads", 1}, {"bias", true}}},
       .gradient_limit = 1e-7,
       .chooses = [](const Json& keys) { return keys.value("feature_map", "") == "expmax"; },
       .recurrent = true},
      {.kind = "lightning",
       .base = {{"num_heads", 3}, {"num_kv_heads", 3}, {"head_dim", 4}},
       .settings = {Json::object(),
                    {{"decay", "alibi_flat"}, {"gate", "sigmoid"}, {"out_norm", "rms"}},
                    {{"decay", "linear"}, {"lrpe", "all"}, {"gate", "none"}, {"v_activation", "silu"}},
                    {{"qk_activation", "none"}, {"lrpe", "first_layer"}, {"norm_eps", 1e-3}},
                    {{"short_conv", 4}, {"v_activation", "silu"}}},
       .gradient_limit = 1e-6,
       .recurrent = true},
      {.kind = "moh",
       .base = {{"num_heads", 6}, {"num_kv_heads", 2}, {"head_dim", 4}},
       .settings = {Json::object(),
                    {{"shared_heads", 0}, {"top_k", 3}, {"window", 3}},
                    {{"shared_heads", 1}, {"top_k", 1}, {"gate_mode", "paper"}, {"qk_norm", true}},
                    {{"shared_heads", 0}, {"top_k", 2}, {"gate_mode", "paper"}}},
       .chooses = [](const Json&) { return true; }},
      {.kind = "nalaformer",
       .base = two_heads,
       .settings =
           {Json::object(),
            {{"feature_map", "relu_split"}, {"short_conv", 0}, {"lambda_learnable", true}},
            {{"rope", true}, {"phase", "direction"}, {"q_rescale", true}, {"out_norm", "rms_head"}},
            {{"lambda_learnable", true}, {"qnorm_scale", 0.4}, {"key_norm", "unit"}, {"gate", "none"}},
            {{"phase", "tanh_raw"}, {"short_conv", 1}, {"tau", 0.7}, {"rope", true}},
            {{"phase", "none"}, {"normaliser", "none"}, {"rope", true}, {"lambda", 2.5}}},
       .gradient_limit = 1e-6,
       .recurrent = true},
      {.kind = "parallel",
       .base = Json::object(),
       .settings = {near_and_lightning,
                    with(near_and_lightning, {{"combine", "concat"}}),
                    {{"members", {"cca", "hedgehog", "softmax"}},
                     {"cca", {{"num_heads", 4}, {"num_kv_heads", 2}, {"head_dim", 6}}},
                     {"hedgehog", with(two_heads, {{"short_conv", 3}})},
                     {"softmax", grouped}}},
       .gradient_limit = 1e-6},
      {.kind = "sigmoid",
       .base = with(grouped, {{"context_length", 8}}),
       .settings = {Json::object(), {{"window", 3}, {"qk_norm", true}}, {{"context_length", 1}}}},
      {.kind = "soft_cap",
       .base = with(grouped, {{"cap", 1.5}}),
       .settings = {Json::object(), {{"window", 3}, {"qk_norm", true}}, {{"cap", 0.2}, {"num_kv_heads", 1}}}},
      {.kind = "softmax",
       .base = grouped,
       .settings = {Json::object(),
                    {{"num_kv_heads", 4}, {"qk_norm", true}, {"rope_fraction", 0.5}},
                    {{"num_kv_heads", 1}, {"window", 3}, {"rope", false}},
                    {{"sink", true}, {"window", 2}},
                    {{"bias", true}, {"sink", true}},
                    {{"short_conv", 4}},
                    {{"short_conv", 2}, {"qk_norm", true}, {"window", 3}},
                    {{"num_heads", 1}, {"num_kv_heads", 1}}}},
  };
  return rows;
}

}  // namespace headway::testing
