// Row scales and biases of affine-scaled attention (arXiv 2602.23057, equations 6 to 11) from the scores z of
// its tokens, with mu a running mean that counts as a constant:
//
//   alpha = act(z)       r_i = alpha_i       beta_i = (mu_h - alpha_i) / N_i
//   act: min(1, max(0, 0.1 z + 0.5)), or the logistic function
//
// N_i is a constant, the number of keys that position i sees, or the number of keys there are.
// Backward: dz_i = (dr_i - dbeta_i / N_i) act'(z_i).
#pragma once

#include <algorithm>

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/gate_activation.h"
#include "kernels/op.h"

namespace headway {

enum class AffineActivation : uint8_t { lin_clip, sigmoid };
enum class AffineCount : uint8_t { fixed, visible, all_keys };

template <class S>
HEADWAY_HD S affine_activate(AffineActivation kind, S z) {
  if (kind == AffineActivation::sigmoid) return logistic(z);
  const S line = S(0.1) * z + S(0.5);
  return line < 0 ? S(0) : line > 1 ? S(1) : line;
}
template <class S>
HEADWAY_HD S affine_slope(AffineActivation kind, S z) {
  if (kind == AffineActivation::sigmoid) return logistic(z) * (1 - logistic(z));
  return z > -5 && z < 5 ? S(0.1) : S(0);
}

struct AffineScaleConfig {
  AffineActivation activation = AffineActivation::lin_clip;
  AffineCount count = AffineCount::fixed;
  int64_t fixed_count = 1;
  int64_t window = 0;        // latest keys seen; 0: all
  int64_t query_offset = 0;  // position of the first token

  /// N_i of token t among `tokens` new ones.
  HEADWAY_HD double count_at(int64_t t, int64_t tokens) const {
    if (count == AffineCount::fixed) return static_cast<double>(fixed_count);
    if (count == AffineCount::all_keys) return static_cast<double>(query_offset + tokens);
    const int64_t before = query_offset + t + 1;
    return static_cast<double>(window > 0 && window < before ? window : before);
  }
};

template <class T>
struct AffineScaleForward {
  static constexpr const char* name = "affine_scale_forward";
  AffineScaleConfig config;
  View<const T, 3> z;          // [B,T,H]
  View<const Acc<T>, 1> mean;  // [H]: mu
  View<Acc<T>, 3> row_scale;   // [B,H,T]
  View<Acc<T>, 3> row_bias;    // [B,H,T], optional
  View<Acc<T>, 1> alpha_sums;  // [H], optional: the sums of alpha over tokens are added to it

  void check() const {
    const int64_t size = z.numel();
    HEADWAY_CHECK(z.is_contiguous() && row_scale.is_contiguous() && row_scale.numel() == size &&
                      mean.size[0] == z.size[2] && (!row_bias || row_bias.numel() == size) &&
                      (!alpha_sums || alpha_sums.size[0] == z.size[2]),
                  ShapeError, "affine_scale_forward: sizes do not fit");
  }
};

/// mean = rho mean + (1 - rho) sums / count, unless grad_scale is negative (no update happened); sums = 0.
template <class T>
struct UpdateRunningMean {
  static constexpr const char* name = "update_running_mean";
  View<T, 1> mean, sums;
  View<const double, 1> grad_scale;  // (1), optional
  double rho = 0;
  int64_t count = 1;  // what sums adds up, of all ranks

  void check() const {
    HEADWAY_CHECK(mean.size[0] == sums.size[0] && count > 0, ShapeError,
                  "update_running_mean: a sum for each mean and a positive count are expected");
  }
};

template <class T>
struct AffineScaleBackward {
  static constexpr const char* name = "affine_scale_backward";
  AffineScaleConfig config;
  View<const T, 3> z;
  View<const Acc<T>, 3> drow_scale;  // [B,H,T]
  View<const Acc<T>, 3> drow_bias;   // [B,H,T], optional
  View<T, 3> dz;

  void check() const {
    HEADWAY_CHECK(z.is_contiguous() && dz.is_contiguous() && drow_scale.is_contiguous() &&
                      dz.numel() == z.numel() && drow_scale.numel() == z.numel() &&
                      (!drow_bias || drow_bias.numel() == z.numel()),
                  ShapeError, "affine_scale_backward: sizes do not fit");
  }
};

}  // namespace headway
