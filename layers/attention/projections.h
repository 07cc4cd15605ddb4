// What the kinds of the softmax family share: query, key and value projections, QK-norm and RoPE.
#pragma once

#include <memory>

#include "layers/attention/attention_layer.h"
#include "layers/linear.h"
#include "layers/norm.h"

namespace headway {

/// query [B,T,H,Dh], key and value [B,T,K,Dh]
struct QueryKeyValue {
  Variable query, key, value;
};

/// Parameters query/weight, key/weight, value/weight (and /bias), query_norm/weight, key_norm/weight. Owners
/// add it as a child without a name of its own, so that these are the owner's paths.
class Projections : public Module {
 public:
  Projections(const AttentionConfig&, const ModelShape&);
  /// x [B,T,D] -> heads; query and key normalised and rotated as configured: place(project(x)).
  QueryKeyValue forward(Context&, const Variable& x, const Positions&) const;
  QueryKeyValue project(Context&, const Variable& x) const;
  QueryKeyValue place(Context&, const QueryKeyValue&, const Positions&) const;

 private:
  Variable heads(Context&, const Variable& rows, int64_t num_heads) const;
  Variable place(Context&, const Variable& heads, const HeadNorm* norm, const Positions&) const;

  int64_t num_heads_, num_kv_heads_, head_dim_;
  int64_t rotated_dim_;  // 0: no rotation
  double rope_theta_;
  LinearLayer query_, key_, value_;
  std::unique_ptr<HeadNorm> query_norm_, key_norm_;
};

}  // namespace headway
