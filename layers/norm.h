// Normalisation over the last dimension, by RMS (arXiv 1910.07467) or by mean and variance (arXiv
// 1607.06450).
#pragma once

#include <array>
#include <string_view>

#include "autograd/ops/norm.h"
#include "core/context.h"
#include "layers/module.h"

namespace headway {

class NormLayer : public Module {
 public:
  /// bias: layer norm only.
  NormLayer(NormKind kind, int64_t dim, double eps, bool bias);
  static NormKind parse_kind(std::string_view name) {
    return name == "layer_norm" ? NormKind::layer : NormKind::rms;
  }

  /// x [..., dim] -> [..., dim]
  Variable forward(Context&, const Variable& x) const;
  /// x + update, and its norm.
  std::array<Variable, 2> forward(Context&, const Variable& x, const Variable& update) const;

 private:
  NormKind kind_;
  double eps_;
  Parameter& weight_;
  Parameter* bias_ = nullptr;
};

}  // namespace headway
