#include "layers/model_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "layers/attention/attention_layer.h"

namespace headway {
namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

/// Replaces zeros that stand for derived values. key: where the config is in the recipe, for errors.
void resolve_heads(AttentionConfig& a, const std::string& key, int64_t model_dim) {
  if (a.num_kv_heads == 0) a.num_kv_heads = a.num_heads;
  HEADWAY_CHECK(
      a.num_heads % a.num_kv_heads == 0, ConfigError,
      fmt::format("{}.num_kv_heads = {} does not divide num_heads = {}", key, a.num_kv_heads, a.num_heads));
  if (a.head_dim == 0) {
    HEADWAY_CHECK(model_dim % a.num_heads == 0, ConfigError,
                  fmt::format("{}.head_dim is not set and num_heads = {} does not divide model_dim = {}", key,
                              a.num_heads, model_dim));
    a.head_dim = model_dim / a.num_heads;
  }
  if (!a.rope) return;
  const double rotated = a.rope_fraction * static_cast<double>(a.head_dim);
  const auto width = static_cast<int64_t>(rotated);
  HEADWAY_CHECK(static_cast<double>(width) == rotated && width % 2 == 0, ConfigError,
                fmt::format("{}.rope_fraction = {} of head_dim = {} is not an even number of channels", key,
                            a.rope_fraction, a.head_dim));
}

void for_each_config(const std::string& key, AttentionConfig& config,
                     const std::function<void(const std::string& key, AttentionConfig&)>& function) {
  function(key, config);
  config.for_each_member([&](const std::string& name, AttentionConfig& member) {
    for_each_config(key + "." + name, member, function);
  });
}

}  // namespace

void LayerAttention::describe(FieldVisitor& v) {
  base_.choose(v);
  base_->describe_heads(v);
  v("layers", pattern_,
    "for hybrids: the kind of each layer, repeated up to num_layers; names other than kind's are tables "
    "model.attention.<name> with a kind and keys of their own");
  if (uses_base()) base_->describe_other(v);
  std::vector<std::string> others = pattern_;
  std::erase(others, base_->kind);
  describe_named(v, "model.attention.layers", others, *base_, others_, "layers of this name");
}

bool LayerAttention::uses_base() const {
  return pattern_.empty() || std::ranges::find(pattern_, base_->kind) != pattern_.end();
}

const AttentionConfig& LayerAttention::of_layer(int64_t layer_index) const {
  if (pattern_.empty()) return *base_;
  const std::string& name = pattern_[static_cast<size_t>(layer_index) % pattern_.size()];
  return name == base_->kind ? *base_ : *others_.at(name);
}

std::string LayerAttention::summary(int64_t num_layers) const {
  if (pattern_.empty()) return base_->kind;
  std::vector<std::pair<std::string, int64_t>> counts;
  for (int64_t i = 0; i < num_layers; ++i) {
    const std::string& name = pattern_[static_cast<size_t>(i) % pattern_.size()];
    const auto found = std::ranges::find(counts, name, &std::pair<std::string, int64_t>::first);
    if (found == counts.end())
      counts.emplace_back(name, 1);
    else
      ++found->second;
  }
  std::vector<std::string> parts;
  for (const auto& [name, count] : counts) parts.push_back(fmt::format("{} of {}", count, name));
  return fmt::format("{}", fmt::join(parts, " and "));
}

void LayerAttention::for_each(const std::function<void(const std::string&, AttentionConfig&)>& function) {
  if (uses_base()) for_each_config("model.attention", *base_, function);
  for (auto& [name, choice] : others_) for_each_config("model.attention." + name, *choice, function);
}

void LayerAttention::check(int64_t num_layers) {
  std::set<std::string> tables;
  for_each([&](const std::string& key, AttentionConfig&) {
    HEADWAY_CHECK(tables.insert(key).second, ConfigError,
                  fmt::format("{} is the table of a layer and of a member of another: expected different "
                              "names",
                              key));
  });
  if (pattern_.empty()) return;
  HEADWAY_CHECK(static_cast<int64_t>(pattern_.size()) <= num_layers, ConfigError,
                fmt::format("model.attention.layers has {} entries: expected at most model.num_layers = {}",
                            pattern_.size(), num_layers));
  const bool is_default = base_->kind == AttentionChoice()->kind;
  const bool is_of_a_layer =
      std::ranges::any_of(others_, [&](const auto& other) { return other.second->kind == base_->kind; });
  HEADWAY_CHECK(uses_base() || is_default || is_of_a_layer, ConfigError,
                fmt::format("model.attention.kind = \"{}\" is the kind of no layer of "
                            "model.attention.layers = [{}]: expected one of theirs, or none",
                            base_->kind, fmt::join(pattern_, ", ")));
}

void ModelConfig::describe(FieldVisitor& v) {
  v("num_layers", num_layers, "decoder blocks", {.min = 1, .max = 1000});
  v("model_dim", model_dim, "width of the residual stream", {.min = 1, .max = 65536});
  v("vocab_size", vocab_size, "rows of the embedding; 0 = the tokenizer's, rounded up to a multiple of 64",
    {.min = 0, .max = 16777216});
  v("max_seq_len", max_seq_len, "rows of learned positions; 0 = data.seq_len", {.min = 0, .max = 1e9});
  v("learned_positions", learned_positions,
    "add a learned vector per position (GPT-2); then set attention.rope = false");
  v("scale_embedding", scale_embedding, "multiply embedded tokens by sqrt(model_dim), as TransNormerLLM");
  v("mlp", mlp,
    "feed-forward kind: swiglu (arXiv 2002.05202), glu (the same without an activation, TransNormerLLM's "
    "SGLU) or gelu (tanh form, as GPT-2)",
    {.choices = {"swiglu", "glu", "gelu"}});
  v("mlp_dim", mlp_dim,
    "inner width; 0 = 8/3 model_dim up to a multiple of 64 (swiglu, glu) or 4 model_dim (gelu)",
    {.min = 0, .max = 1048576});
  v("norm", norm, "normalisation before each layer and the head; srms_norm: rms_norm without a weight",
    {.choices = {"rms_norm", "layer_norm", "srms_norm"}});
  v("norm_eps", norm_eps, "added to the mean square or variance", {.min = 0, .max = 1});
  v("bias", bias, "biases in the feed-forward layers and layer_norm");
  v("tied_head", tied_head, "the output head shares the embedding matrix");
  v("dropout", dropout, "share of activations dropped after the embedding, attention and feed-forward layers",
    {.min = 0, .max = 0.99});
  v("init_std", init_std,
    "standard deviation of weights; projections into the residual stream get 1/sqrt(2 num_layers) of it",
    {.min = 0, .max = 10});
  v.table("attention", attention, "the attention layer of every block");
}

void ModelConfig::resolve(int64_t tokenizer_vocab_size, int64_t seq_len) {
  if (vocab_size == 0) vocab_size = round_up(tokenizer_vocab_size, 64);
  HEADWAY_CHECK(vocab_size >= tokenizer_vocab_size, ConfigError,
                fmt::format("model.vocab_size = {} is smaller than the tokenizer's {} tokens", vocab_size,
                            tokenizer_vocab_size));
  if (max_seq_len == 0) max_seq_len = seq_len;
  HEADWAY_CHECK(
      !learned_positions || max_seq_len >= seq_len, ConfigError,
      fmt::format("model.max_seq_len = {} is shorter than data.seq_len = {}", max_seq_len, seq_len));
  if (mlp_dim == 0) mlp_dim = has_gated_mlp() ? round_up(model_dim * 8 / 3, 64) : 4 * model_dim;

  attention.check(num_layers);
  attention.for_each([this](const std::string& key, AttentionConfig& config) {
    if (config.has_heads()) resolve_heads(config, key, model_dim);
  });
}

}  // namespace headway
