#include "layers/norm.h"

#include "autograd/apply.h"
#include "autograd/ops/norm.h"

namespace headway {

NormLayer::NormLayer(NormKind kind, int64_t dim, double eps, bool bias)
    : kind_(kind), eps_(eps), weight_(add_parameter("weight", {dim}, Init::ones(), false)) {
  if (kind == NormKind::layer && bias) bias_ = &add_parameter("bias", {dim}, Init::zeros(), false);
}

Variable NormLayer::forward(Context& ctx, const Variable& x) const {
  return apply<Norm>(ctx, {.kind = kind_, .eps = eps_}, x, weight_.variable(),
                     bias_ ? bias_->variable() : Variable());
}

std::array<Variable, 2> NormLayer::forward(Context& ctx, const Variable& x, const Variable& update) const {
  return apply<AddNorm>(ctx, {.kind = kind_, .eps = eps_}, x, update, weight_.variable(),
                        bias_ ? bias_->variable() : Variable());
}

}  // namespace headway
