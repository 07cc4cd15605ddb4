// Gate keys and scores that several kinds share (arXiv 2505.06708): where a gate acts, on what, and through
// which function.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "autograd/ops/gate.h"
#include "core/fields.h"
#include "layers/attention/attention_config.h"
#include "layers/module.h"

namespace headway {

/// The keys model.attention.gate_*.
struct GateKeys {
  std::string gate_position = "g1";  // "none" where a kind offers it: no gate
  std::string gate_granularity = "elementwise";
  std::string gate_heads = "specific";
  std::string gate_combine = "mul";
  std::string gate_act = "sigmoid";
  std::string gate_input = "x";
  int64_t gate_input_dims = 0;
  bool gate_bias = false;
  std::string gate_init = "normal";

  /// positions: the values gate_position may have.
  void describe(FieldVisitor&, std::vector<std::string_view> positions);
  /// ConfigError for keys that exclude each other.
  void check(const AttentionConfig&) const;
  bool is_elementwise() const { return gate_granularity == "elementwise"; }
};

/// Parameters gate/weight and gate/bias, or gate/logit. Owners add it as a child named "gate".
class AttentionGate : public Module {
 public:
  AttentionGate(const GateKeys&, const AttentionConfig&, int64_t model_dim, double init_std);

  /// Scores of the hidden state x [B,T,D] the layer reads: [B,T,Hg,Dg], or [Hg,Dg] for a learned constant.
  Variable scores(Context&, const Variable& x) const;
  /// target [B,T,Hg,Dh] (the heads of its position; for g5 [B,T,1,D]), gated.
  Variable apply_to(Context&, const Variable& target, const Variable& scores) const;

  double forward_flop_per_token() const;
  int64_t num_scores() const { return num_heads_ * width_; }

 private:
  /// The range of act(z), which is what multiplies or is added.
  static void report(Context&, const Variable& z, GateActivation);

  GateKeys keys_;
  GateActivation activation_;
  int64_t num_heads_, width_;  // of the scores
  int64_t num_inputs_;         // channels of x that are read
  Parameter* weight_ = nullptr;
  Parameter* bias_ = nullptr;
  Parameter* logit_ = nullptr;
};

}  // namespace headway
