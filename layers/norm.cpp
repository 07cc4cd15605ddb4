#include "layers/norm.h"

#include "autograd/apply.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/gated_norm.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/norm_rope.h"

namespace headway {
namespace {

NormKind kind_of(NormStyle style) { return style == NormStyle::layer ? NormKind::layer : NormKind::rms; }
Variable optional(const Parameter* parameter) { return parameter ? parameter->variable() : Variable(); }

}  // namespace

NormLayer::NormLayer(NormStyle style, int64_t dim, double eps, bool bias) : style_(style), eps_(eps) {
  if (style != NormStyle::srms) weight_ = &add_parameter("weight", {dim}, Init::ones(), false);
  if (style == NormStyle::layer && bias) bias_ = &add_parameter("bias", {dim}, Init::zeros(), false);
}

Variable NormLayer::forward(Context& ctx, const Variable& x) const {
  if (!weight_) return apply<GatedNorm>(ctx, {.eps = eps_}, x, Variable(), Variable());
  return apply<Norm>(ctx, {.kind = kind_of(style_), .eps = eps_}, x, weight_->variable(), optional(bias_));
}

std::array<Variable, 2> NormLayer::forward(Context& ctx, const Variable& x, const Variable& update) const {
  if (!weight_) {
    const Variable sum = apply<Add>(ctx, {}, x, update);
    return {sum, forward(ctx, sum)};
  }
  return apply<AddNorm>(ctx, {.kind = kind_of(style_), .eps = eps_}, x, update, weight_->variable(),
                        optional(bias_));
}

HeadNorm::HeadNorm(int64_t head_dim, double eps)
    : eps_(eps), weight_(&add_parameter("weight", {head_dim}, Init::ones(), false)) {}

Variable HeadNorm::forward(Context& ctx, const Variable& heads, const Tensor& table) const {
  return apply<NormRope>(ctx, {.eps = eps_}, heads, weight_->variable(), table);
}

}  // namespace headway
