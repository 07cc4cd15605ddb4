// Row scales and biases of affine-scaled attention (equations in kernels/ops/affine_scale.h).
#pragma once

#include "autograd/node.h"
#include "kernels/ops/affine_scale.h"

namespace headway {

struct AffineScale {
  static constexpr const char* name = "affine_scale";
  struct Config {
    AffineScaleConfig scale = {};
    bool has_bias = true;
  };
  struct Saved {
    Tensor z;
    Config config;
    auto tensors() const { return std::tie(z); }
  };
  /// z [B,T,H], running mean [H] -> row scales and row biases [B,H,T] (undefined without has_bias), in the
  /// accumulator's dtype. alpha_sums [H], where given, grows by the sums of alpha over the tokens.
  static std::array<Tensor, 2> forward(Context&, Saved*, const Config&, const Tensor& z, const Tensor& mean,
                                       const Tensor& alpha_sums);
  static Grads<3> backward(Context&, const Saved&, const Grads<2>& dy, const Needs<3>&);
};

/// mean [H] moves towards sums [H] / count by the share 1 - rho, unless grad_scale (1) f64 is given and
/// negative; sums become zero.
void update_running_mean(const Tensor& mean, const Tensor& sums, double rho, int64_t count,
                         const Tensor& grad_scale, Stream&);

}  // namespace headway
