// y = x W^T + b, W [out, in].
#pragma once

#include "core/context.h"
#include "layers/module.h"

namespace headway {

class LinearLayer : public Module {
 public:
  LinearLayer(int64_t in, int64_t out, Init init, bool bias);
  /// x [..., in] -> [..., out]
  Variable forward(Context&, const Variable& x) const;
  Variable weight() const { return weight_.variable(); }
  /// Undefined where there is none.
  Variable bias() const { return bias_ ? bias_->variable() : Variable(); }

 private:
  Parameter& weight_;
  Parameter* bias_ = nullptr;
};

}  // namespace headway
