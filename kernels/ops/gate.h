// Gates on rows of heads, and what their scores go through.
//
//   gate:       y = x * act(z)   or   x + act(z)          z repeats along dimensions where it has one element
//   activate:   y = act(x)
//   head_mean:  y[r] = mean over h of x[r,h]
//
// Backward of the gate: dx = dy act(z) or dy; dz = sum over the elements that z serves of dy x act'(z) or dy
// act'(z).
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/gate_activation.h"
#include "kernels/op.h"

namespace headway {

namespace detail {

template <class X, class Z>
void check_gate(const View<X, 3>& x, const View<Z, 3>& z, const char* name) {
  bool fits = x.is_contiguous() && z.is_contiguous();
  for (int i = 0; i < 3; ++i) fits = fits && (z.size[i] == x.size[i] || z.size[i] == 1);
  HEADWAY_CHECK(fits, ShapeError, std::string(name) + ": the scores do not fit the gated rows");
}

}  // namespace detail

template <class T>
struct GateForward {
  static constexpr const char* name = "gate_forward";
  View<const T, 3> x;  // [R,H,D]
  View<const T, 3> z;  // [R or 1, H or 1, D or 1]
  GateActivation activation = GateActivation::sigmoid;
  bool adds = false;  // instead of multiplying
  View<T, 3> y;       // [R,H,D]

  void check() const {
    detail::check_gate(x, z, name);
    HEADWAY_CHECK(y.is_contiguous() && y.numel() == x.numel(), ShapeError, "gate_forward: sizes differ");
  }
};

template <class T>
struct GateBackward {
  static constexpr const char* name = "gate_backward";
  View<const T, 3> dy, x, z;
  GateActivation activation = GateActivation::sigmoid;
  bool adds = false;
  View<T, 3> dx, dz;  // of the shapes of x and z

  void check() const {
    detail::check_gate(x, z, name);
    HEADWAY_CHECK(dy.is_contiguous() && dx.is_contiguous() && dz.is_contiguous() && dy.numel() == x.numel() &&
                      dx.numel() == x.numel() && dz.numel() == z.numel(),
                  ShapeError, "gate_backward: sizes differ");
  }
};

template <class T>
struct ActivateForward {
  static constexpr const char* name = "activate_forward";
  View<const T, 1> x;
  View<T, 1> y;
  GateActivation activation = GateActivation::sigmoid;
  void check() const { HEADWAY_CHECK(x.size[0] == y.size[0], ShapeError, "activate_forward: sizes differ"); }
};

/// dx = dy act'(x)
template <class T>
struct ActivateBackward {
  static constexpr const char* name = "activate_backward";
  View<const T, 1> dy, x;
  View<T, 1> dx;
  GateActivation activation = GateActivation::sigmoid;
  void check() const {
    HEADWAY_CHECK(x.size[0] == dy.size[0] && x.size[0] == dx.size[0], ShapeError,
                  "activate_backward: sizes differ");
  }
};

/// Forward: y[r,d] = mean over h of x[r,h,d].
template <class T>
struct HeadMeanForward {
  static constexpr const char* name = "head_mean_forward";
  View<const T, 3> x;  // [R,H,D]
  View<T, 2> y;        // [R,D]
  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && y.is_contiguous() && y.size[0] == x.size[0] && y.size[1] == x.size[2],
                  ShapeError, "head_mean_forward: sizes differ");
  }
};

/// dx[r,h,d] = dy[r,d] / H
template <class T>
struct HeadMeanBackward {
  static constexpr const char* name = "head_mean_backward";
  View<const T, 2> dy;  // [R,D]
  View<T, 3> dx;        // [R,H,D]
  void check() const {
    HEADWAY_CHECK(
        dx.is_contiguous() && dy.is_contiguous() && dy.size[0] == dx.size[0] && dy.size[1] == dx.size[2],
        ShapeError, "head_mean_backward: sizes differ");
  }
};

}  // namespace headway
