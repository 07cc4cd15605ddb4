// The decoder: embedding, blocks, final norm, head.
//
// Weights start normal with standard deviation init_std (0.02, GPT-2), projections into the residual stream
// with init_std / sqrt(2 num_layers), norms at one, biases at zero.
#pragma once

#include <memory>
#include <vector>

#include "layers/block.h"
#include "layers/model_config.h"

namespace headway {

/// What generation keeps: one attention state per block, and how many tokens they have seen.
struct DecodeState {
  std::vector<std::unique_ptr<AttentionState>> layers;
  int64_t num_tokens = 0;
};

enum class Recompute : uint8_t { off, blocks };

class Model : public Module {
 public:
  /// The config must be resolved.
  explicit Model(const ModelConfig&);

  /// tokens [B,T] i32 -> [B,T,D] after the final norm; with ctx.split the tokens that this rank has of each
  /// sequence. Recompute::blocks keeps only the inputs of blocks.
  Variable hidden(Context&, const Tensor& tokens, Recompute);
  /// Sum of the cross entropies in nats over tokens whose target is not -1, times loss_scale. fp32 scalar
  /// [1]. tokens and targets [B,T] i32. The gradient of the logits is never held whole.
  Variable loss(Context&, const Tensor& tokens, const Tensor& targets, double loss_scale, Recompute);

  /// The cross entropy of each token, [B,T] fp32 (fp64 for an fp64 model), 0 where the target is -1.
  Tensor token_losses(Context&, const Tensor& tokens, const Tensor& targets);

  /// tokens [B,T] i32 -> [B,T] i32, the likeliest token after each (of equal ones the first; -1 for NaN). The
  /// logits are never held whole.
  Tensor predictions(Context&, const Tensor& tokens);

  DecodeState make_state(int64_t batch, int64_t capacity, Device) const;
  /// tokens [B,T] i32 that follow those in the state -> logits [B,V] fp32 after the last one.
  Tensor next_logits(Context&, const Tensor& tokens, DecodeState&);

  const ModelConfig& config() const { return config_; }
  std::vector<std::unique_ptr<Block>>& blocks() { return blocks_; }
  const std::vector<std::unique_ptr<Block>>& blocks() const { return blocks_; }
  int64_t num_parameters();

 private:
  Variable embed(Context&, const Tensor& tokens, const Positions&) const;
  const Parameter& head() const { return head_ ? *head_ : embedding_; }
  /// The same context, but row_invariant in inference where a layer chooses: then a text gets the same bits
  /// read at once or token by token, and equal keys tie.
  Context inference(const Context&) const;
  /// Of `count` tokens of each sequence, the first of them at `offset` where this rank has whole sequences.
  Positions positions(const Context&, int64_t offset, int64_t count);

  ModelConfig config_;
  Parameter& embedding_;
  Parameter* position_embedding_ = nullptr;
  Parameter* head_ = nullptr;
  std::vector<std::unique_ptr<Block>> blocks_;
  NormLayer norm_;
  RopeTables rope_tables_;
};

}  // namespace headway
