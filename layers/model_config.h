// The recipe section `model`: enough to express GPT-2 and Llama exactly.
#pragma once

#include <memory>
#include <string>

#include "core/fields.h"
#include "layers/attention/attention_config.h"

namespace headway {

/// The attention config of the chosen kind, as a value: copies are deep.
class AttentionChoice {
 public:
  AttentionChoice();  // softmax
  AttentionChoice(const AttentionChoice& other) : config_(other.config_->clone()) {}
  AttentionChoice& operator=(const AttentionChoice& other) {
    config_ = other.config_->clone();
    return *this;
  }

  AttentionConfig& operator*() const { return *config_; }
  AttentionConfig* operator->() const { return config_.get(); }
  /// Visits `kind`, which decides which config takes the other keys.
  void describe(FieldVisitor&);

 private:
  std::unique_ptr<AttentionConfig> config_;
};

struct ModelConfig {
  int64_t num_layers = 4;
  int64_t model_dim = 192;
  int64_t vocab_size = 0;   // 0: the tokenizer's, rounded up to a multiple of 64
  int64_t max_seq_len = 0;  // 0: data.seq_len; rows of learned positions
  bool learned_positions = false;
  std::string mlp = "swiglu";
  int64_t mlp_dim = 0;  // 0: swiglu 8/3 model_dim up to a multiple of 64, gelu 4 model_dim
  std::string norm = "rms_norm";
  double norm_eps = 1e-5;
  bool bias = false;
  bool tied_head = true;
  double dropout = 0;
  double init_std = 0.02;
  AttentionChoice attention;

  void describe(FieldVisitor&);
  /// Replaces zeros that stand for derived values; ConfigError naming the keys that do not fit together.
  void resolve(int64_t tokenizer_vocab_size, int64_t seq_len);
};

}  // namespace headway
