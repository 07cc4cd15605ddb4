// The recipe keys of an attention layer: those all kinds share, and a base for each kind's own.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/fields.h"

namespace headway {

/// Fields of `model.attention`. A kind derives from it, adds fields and lists them in describe_kind.
struct AttentionConfig {
  std::string kind = "softmax";
  int64_t num_heads = 6;
  int64_t num_kv_heads = 0;  // 0: num_heads
  int64_t head_dim = 0;      // 0: model_dim / num_heads
  bool rope = true;
  double rope_theta = 10000;
  double rope_fraction = 1;
  bool qk_norm = false;
  bool bias = false;
  int64_t window = 0;
  double dropout = 0;

  AttentionConfig() = default;
  AttentionConfig(const AttentionConfig&) = default;
  AttentionConfig& operator=(const AttentionConfig&) = default;
  virtual ~AttentionConfig() = default;

  virtual std::unique_ptr<AttentionConfig> clone() const = 0;
  /// Fields of this kind alone.
  virtual void describe_kind(FieldVisitor&) {}
  /// ConfigError for values that exclude each other, or that the kind does not have. Called before a layer is
  /// made.
  virtual void check() const {}
  /// Whether the layer has heads of its own. One that consists of others passes the keys on to them.
  virtual bool has_heads() const { return true; }
  /// The configs of the layers that this one consists of, and the names of their tables.
  virtual void for_each_member(const std::function<void(const std::string& name, AttentionConfig&)>&) {}

  /// All fields but `kind`, which its owner visits first to know which config to make.
  void describe(FieldVisitor& v) {
    describe_heads(v);
    describe_other(v);
  }
  /// Those that layers of other kinds inherit.
  void describe_heads(FieldVisitor& v) {
    v("num_heads", num_heads, "query heads", {.min = 1, .max = 1024});
    v("num_kv_heads", num_kv_heads, "key/value heads, dividing num_heads; 0 = num_heads",
      {.min = 0, .max = 1024});
    v("head_dim", head_dim, "width of a head; 0 = model_dim / num_heads", {.min = 0, .max = 1024});
  }
  void describe_other(FieldVisitor& v) {
    if (!has_heads()) return describe_kind(v);
    v("rope", rope, "rotate queries and keys by their position (RoPE, arXiv 2104.09864)");
    v("rope_theta", rope_theta, "base of the RoPE frequencies", {.min = 1, .max = 1e9});
    v("rope_fraction", rope_fraction, "share of each head's channels that is rotated", {.min = 0, .max = 1});
    v("qk_norm", qk_norm, "RMSNorm with a learned weight on each query and key head, before RoPE");
    v("bias", bias, "biases on the query, key, value and output projections");
    v("window", window, "each query sees this many latest keys, itself included; 0 = all",
      {.min = 0, .max = 1e9});
    v("dropout", dropout, "share of the attention weights dropped in training (softmax family)",
      {.min = 0, .max = 0.99});
    describe_kind(v);
  }
};

/// Gives a config clone() and its kind's name: struct GatedConfig : AttentionConfigOf<GatedConfig> { ... };
template <class Derived>
struct AttentionConfigOf : AttentionConfig {
  std::unique_ptr<AttentionConfig> clone() const override {
    return std::make_unique<Derived>(static_cast<const Derived&>(*this));
  }
};

}  // namespace headway
