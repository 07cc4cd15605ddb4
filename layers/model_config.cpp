#include "layers/model_config.h"

#include <fmt/format.h>

#include "core/error.h"
#include "layers/attention/attention_layer.h"

namespace headway {
namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

AttentionChoice::AttentionChoice() : config_(find_attention("softmax").make_config()) {}

void AttentionChoice::describe(FieldVisitor& v) {
  FieldRule rule;
  for (const AttentionVariant* variant : all_attention()) rule.choices.push_back(variant->name);
  std::string kind = config_->kind;
  v("kind", kind, "attention mechanism", rule);
  if (kind != config_->kind) config_ = find_attention(kind).make_config();
  config_->describe(v);
}

void ModelConfig::describe(FieldVisitor& v) {
  v("num_layers", num_layers, "decoder blocks", {.min = 1, .max = 1000});
  v("model_dim", model_dim, "width of the residual stream", {.min = 1, .max = 65536});
  v("vocab_size", vocab_size, "rows of the embedding; 0 = the tokenizer's, rounded up to a multiple of 64",
    {.min = 0, .max = 16777216});
  v("max_seq_len", max_seq_len, "rows of learned positions; 0 = data.seq_len", {.min = 0, .max = 1e9});
  v("learned_positions", learned_positions,
    "add a learned vector per position (GPT-2); then set attention.rope = false");
  v("mlp", mlp, "feed-forward kind: swiglu (arXiv 2002.05202) or gelu (tanh form, as GPT-2)",
    {.choices = {"swiglu", "gelu"}});
  v("mlp_dim", mlp_dim,
    "inner width; 0 = 8/3 model_dim up to a multiple of 64 (swiglu) or 4 model_dim (gelu)",
    {.min = 0, .max = 1048576});
  v("norm", norm, "normalisation before each layer and the head", {.choices = {"rms_norm", "layer_norm"}});
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
  if (mlp_dim == 0) mlp_dim = mlp == "swiglu" ? round_up(model_dim * 8 / 3, 64) : 4 * model_dim;

  AttentionConfig& a = *attention;
  if (a.num_kv_heads == 0) a.num_kv_heads = a.num_heads;
  HEADWAY_CHECK(a.num_heads % a.num_kv_heads == 0, ConfigError,
                fmt::format("model.attention.num_kv_heads = {} does not divide num_heads = {}",
                            a.num_kv_heads, a.num_heads));
  if (a.head_dim == 0) {
    HEADWAY_CHECK(
        model_dim % a.num_heads == 0, ConfigError,
        fmt::format("model.attention.head_dim is not set and num_heads = {} does not divide model_dim = {}",
                    a.num_heads, model_dim));
    a.head_dim = model_dim / a.num_heads;
  }
  if (a.rope) {
    const double rotated = a.rope_fraction * static_cast<double>(a.head_dim);
    const auto width = static_cast<int64_t>(rotated);
    HEADWAY_CHECK(
        static_cast<double>(width) == rotated && width % 2 == 0, ConfigError,
        fmt::format("model.attention.rope_fraction = {} of head_dim = {} is not an even number of channels",
                    a.rope_fraction, a.head_dim));
  }
}

}  // namespace headway
