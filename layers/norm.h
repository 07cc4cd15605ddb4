// Normalisation over the last dimension, by RMS (arXiv 1910.07467), by mean and variance (arXiv 1607.06450),
// or by RMS without a learned weight (SRMSNorm, arXiv 2307.14995).
#pragma once

#include <array>
#include <string_view>

#include "core/context.h"
#include "layers/module.h"

namespace headway {

enum class NormStyle : uint8_t { rms, layer, srms };

class NormLayer : public Module {
 public:
  /// bias: layer norm only.
  NormLayer(NormStyle style, int64_t dim, double eps, bool bias);
  /// By the names of `model.norm`.
  static NormStyle parse_style(std::string_view name) {
    return name == "layer_norm" ? NormStyle::layer : name == "srms_norm" ? NormStyle::srms : NormStyle::rms;
  }

  /// x [..., dim] -> [..., dim]
  Variable forward(Context&, const Variable& x) const;
  /// x + update, and its norm.
  std::array<Variable, 2> forward(Context&, const Variable& x, const Variable& update) const;

 private:
  NormStyle style_;
  double eps_;
  Parameter* weight_ = nullptr;
  Parameter* bias_ = nullptr;
};

/// QK-norm: RMSNorm with a learned weight over each head, and the rotation that follows it.
class HeadNorm : public Module {
 public:
  HeadNorm(int64_t head_dim, double eps);
  /// heads [B,T,H,Dh], table [T,R/2,2] or undefined for no rotation -> [B,T,H,Dh]
  Variable forward(Context&, const Variable& heads, const Tensor& table) const;

 private:
  double eps_;
  Parameter* weight_;
};

}  // namespace headway
