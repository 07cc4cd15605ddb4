// NaLaFormer's feature maps (arXiv 2506.21137, eqs. 8-17; relu_split: the authors' released code). A row x of
// Dh numbers becomes 2 Dh features from its norm r and its direction d:
//
//   r = sqrt(|x|^2 + eps),  d = x / r
//   b = x, or direction_scale d
//   P = lambda (tau + tanh(norm_scale r)), or lambda
//   cosine:      [ |b|^P cos f ; |b|^P sin f ],   f = (pi/4) tanh(d), (pi/4) d, (pi/4) tanh(x) or 0
//   relu_split:  [ relu(b)^P ; relu(-b)^P ]
//
// Queries use the direction and the power that depends on the norm, keys themselves and lambda. Zero to a
// power is zero with zero gradient; on the float CPU kernel everything below 1.2e-38 counts as zero there.
//
// With da the gradient of |b|^P and df that of the phase:
//   db = da P |b|^(P-1) sign(b)
//   dP = sum_i da |b|^P ln|b|,  dr = dP lambda norm_scale (1 - tanh^2(norm_scale r))
//   dx = (its share through b and f) + (dd - d <d,dd>) / r + dr d
//   dlambda = sum over rows of dP (tau + tanh(norm_scale r)), or of dP
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

struct NormAwareMapSettings {
  enum class Map : uint8_t { cosine, relu_split };
  enum class Base : uint8_t { row, direction };
  enum class Phase : uint8_t { tanh_direction, direction, tanh_row, none };

  Map map = Map::cosine;
  Base base = Base::row;
  Phase phase = Phase::tanh_direction;
  bool power_from_norm = false;
  double lambda = 3;  // where the map has no learned one
  double tau = 0.5;
  double norm_scale = 1;
  double direction_scale = 1;
  double eps = 1e-12;
};

template <class T>
struct NormAwareMapForward {
  static constexpr const char* name = "norm_aware_map_forward";

  NormAwareMapSettings settings;
  View<const T, 2> x;                 // [N,Dh]
  View<const Acc<T>, 1> lambda = {};  // [1], optional: in place of settings.lambda
  View<T, 2> y;                       // [N,2*Dh]

  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && y.is_contiguous() && y.size[0] == x.size[0] &&
                      y.size[1] == 2 * x.size[1] && (!lambda || lambda.size[0] == 1),
                  ShapeError, "norm_aware_map_forward: sizes do not fit");
  }
};

template <class T>
struct NormAwareMapBackward {
  static constexpr const char* name = "norm_aware_map_backward";

  NormAwareMapSettings settings;
  View<const T, 2> x;                 // [N,Dh]
  View<const Acc<T>, 1> lambda = {};  // [1], optional
  View<const T, 2> dy;                // [N,2*Dh]
  View<T, 2> dx;                      // [N,Dh]
  View<Acc<T>, 1> dlambda = {};       // [1], with lambda only
  bool accumulate_lambda = false;

  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && dx.is_contiguous() && dy.is_contiguous() && dy.size[0] == x.size[0] &&
                      dy.size[1] == 2 * x.size[1] && dx.numel() == x.numel() &&
                      (!lambda || (lambda.size[0] == 1 && dlambda.size[0] == 1)),
                  ShapeError, "norm_aware_map_backward: sizes do not fit");
  }
};

}  // namespace headway
