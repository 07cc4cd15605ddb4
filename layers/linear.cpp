#include "layers/linear.h"

#include "autograd/apply.h"
#include "autograd/ops/linear.h"

namespace headway {

LinearLayer::LinearLayer(int64_t in, int64_t out, Init init, bool bias)
    : weight_(add_parameter("weight", {out, in}, init, true)) {
  if (bias) bias_ = &add_parameter("bias", {out}, Init::zeros(), false);
}

Variable LinearLayer::forward(Context& ctx, const Variable& x) const {
  return apply<Linear>(ctx, {}, x, weight(), bias());
}

}  // namespace headway
