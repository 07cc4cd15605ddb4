// The recipe section `model`: enough to express GPT-2 and Llama exactly.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/fields.h"
#include "layers/attention/attention_choice.h"

namespace headway {

/// `model.attention`: one kind for every layer, or a pattern of several.
///
///   [model.attention]
///   kind = "lightning"
///   layers = ["lightning", "lightning", "lightning", "global"]   # repeated up to num_layers
///   [model.attention.global]             # inherits num_heads, num_kv_heads and head_dim
///   kind = "softmax"
///
/// Where no layer is of model.attention.kind, model.attention has no other keys than the heads.
class LayerAttention {
 public:
  AttentionConfig& operator*() const { return *base_; }
  AttentionConfig* operator->() const { return &*base_; }
  const AttentionConfig& of_layer(int64_t layer_index) const;
  /// "softmax", or "3 of lightning and 1 of softmax" over num_layers layers.
  std::string summary(int64_t num_layers) const;
  void describe(FieldVisitor&);
  /// Whether a layer is of the base kind, with the keys of model.attention itself.
  bool uses_base() const;
  /// Every config that a layer or a member of one has, and its recipe key.
  void for_each(const std::function<void(const std::string& key, AttentionConfig&)>&);
  /// ConfigError for a pattern that is longer than the model, a kind that no layer has, or a table of two.
  void check(int64_t num_layers);

 private:
  AttentionChoice base_;
  std::vector<std::string> pattern_;  // empty: base_ everywhere
  NamedAttention others_;
};

struct ModelConfig {
  int64_t num_layers = 4;
  int64_t model_dim = 192;
  int64_t vocab_size = 0;   // 0: the tokenizer's, rounded up to a multiple of 64
  int64_t max_seq_len = 0;  // 0: data.seq_len; rows of learned positions
  bool learned_positions = false;
  bool scale_embedding = false;
  std::string mlp = "swiglu";
  int64_t mlp_dim = 0;  // 0: swiglu and glu 8/3 model_dim up to a multiple of 64, gelu 4 model_dim
  std::string norm = "rms_norm";
  double norm_eps = 1e-5;
  bool bias = false;
  bool tied_head = true;
  double dropout = 0;
  double init_std = 0.02;
  LayerAttention attention;

  /// Whether the feed-forward layer is a product of two projections.
  bool has_gated_mlp() const { return mlp != "gelu"; }
  void describe(FieldVisitor&);
  /// Replaces zeros that stand for derived values; ConfigError naming the keys that do not fit together.
  void resolve(int64_t tokenizer_vocab_size, int64_t seq_len);
};

}  // namespace headway
