// Linearised relative positions with learned angles (LRPE-d, arXiv 2405.17381, eq. 12): a head's channel m at
// position p becomes two features whose product with another token's depends on the distance alone.
//
//   y = [ x cos(p theta) ; x sin(p theta) ],   y_p . y'_s = sum_m x_m x'_m cos(theta_m (p - s))
//
//   dx     = cos(p theta) dy_c + sin(p theta) dy_s
//   dtheta (+)= sum over batch and tokens of p x (cos(p theta) dy_s - sin(p theta) dy_c)
//
// Angles are formed in double, so that far positions keep their phase.
#pragma once

#include "core/dtype.h"
#include "core/token_positions.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class T>
struct LrpeForward {
  static constexpr const char* name = "lrpe_forward";

  View<const T, 4> x;           // [B,T,H,Dh]
  View<const Acc<T>, 2> theta;  // [H,Dh]
  TokenPositions positions;
  View<T, 4> y;  // [B,T,H,2*Dh]

  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && y.is_contiguous() && theta.is_contiguous() &&
                      y.numel() == 2 * x.numel() && y.size[3] == 2 * x.size[3] &&
                      theta.size[0] == x.size[2] && theta.size[1] == x.size[3],
                  ShapeError, "lrpe_forward: sizes do not fit");
  }
};

template <class T>
struct LrpeBackward {
  static constexpr const char* name = "lrpe_backward";

  View<const T, 4> dy;          // [B,T,H,2*Dh]
  View<const T, 4> x;           // [B,T,H,Dh]
  View<const Acc<T>, 2> theta;  // [H,Dh]
  TokenPositions positions;
  View<T, 4> dx;           // [B,T,H,Dh]
  View<Acc<T>, 1> dtheta;  // [H*Dh]
  bool accumulate_theta = false;

  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && dy.is_contiguous() && dx.is_contiguous() && theta.is_contiguous() &&
                      dy.numel() == 2 * x.numel() && dy.size[3] == 2 * x.size[3] && dx.numel() == x.numel() &&
                      theta.size[0] == x.size[2] && theta.size[1] == x.size[3] &&
                      dtheta.size[0] == theta.numel(),
                  ShapeError, "lrpe_backward: sizes do not fit");
  }
};

}  // namespace headway
