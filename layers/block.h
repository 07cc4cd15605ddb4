// One pre-norm decoder block: x + attention(norm(x)), then x + mlp(norm(x)).
#pragma once

#include <memory>

#include "layers/attention/attention_layer.h"
#include "layers/mlp.h"
#include "layers/model_config.h"
#include "layers/norm.h"

namespace headway {

class Block : public Module {
 public:
  Block(const ModelConfig&, int64_t layer_index);
  /// x [B,T,D] -> [B,T,D]; state as in AttentionLayer::forward.
  Variable forward(Context&, const Variable& x, const Positions&, AttentionState* state);
  AttentionLayer& attention() { return *attention_; }

 private:
  Variable run(Context&, const Variable& x, const Positions&, AttentionState* state);

  int64_t layer_index_;
  double dropout_;
  NormLayer attention_norm_;
  std::unique_ptr<AttentionLayer> attention_;
  NormLayer mlp_norm_;
  Mlp mlp_;
};

}  // namespace headway
