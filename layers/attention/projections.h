// What both families share before attention: query, key and value projections, short convolutions where a
// kind offers them, QK-norm and RoPE.
#pragma once

#include <memory>
#include <vector>

#include "layers/attention/attention_layer.h"
#include "layers/attention/query_key_value.h"
#include "layers/attention/short_conv.h"
#include "layers/linear.h"
#include "layers/norm.h"

namespace headway {

/// Parameters query/weight, key/weight, value/weight (and /bias), query_norm/weight, key_norm/weight, and
/// those of ShortConvs. Owners add it as a child without a name of its own, so that these are the owner's
/// paths.
class Projections : public Module {
 public:
  Projections(const AttentionConfig&, const ModelShape&, const ShortConvs::Options& = {});
  /// x [B,T,D] -> heads; query and key normalised and rotated as configured: place(project(x)). past: what
  /// the convolutions keep while decoding, or null.
  QueryKeyValue forward(Context&, const Variable& x, const Positions&,
                        std::vector<RowHistory>* past = nullptr) const;
  QueryKeyValue project(Context&, const Variable& x, std::vector<RowHistory>* past = nullptr) const;
  QueryKeyValue place(Context&, const QueryKeyValue&, const Positions&) const;
  const ShortConvs& short_convs() const { return short_convs_; }

 private:
  Variable heads(Context&, const Variable& rows, int64_t num_heads) const;
  Variable place(Context&, const Variable& heads, const HeadNorm* norm, const Positions&) const;

  int64_t num_heads_, num_kv_heads_, head_dim_;
  int64_t rotated_dim_;  // 0: no rotation
  double rope_theta_;
  LinearLayer query_, key_, value_;
  ShortConvs short_convs_;
  std::unique_ptr<HeadNorm> query_norm_, key_norm_;
};

/// [B,T,H,Dh] -> [B,T,H Dh]
Variable merge_heads(Context&, const Variable&);

}  // namespace headway
