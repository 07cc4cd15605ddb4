// Elementwise activations.
//
//   silu:   y = x sigmoid(x)                                                     (arXiv 1606.08415)
//   swiglu: y = silu(gate) * up,  silu(x) = x sigmoid(x)                         (arXiv 2002.05202)
//   gelu:   y = x sigmoid(2 u),   u = sqrt(2/pi) (x + 0.044715 x^3)              (arXiv 1606.08415, tanh
//   form)
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class T>
struct SiluForward {
  static constexpr const char* name = "silu_forward";
  View<const T, 1> x;
  View<T, 1> y;
  void check() const { HEADWAY_CHECK(x.size[0] == y.size[0], ShapeError, "silu_forward: sizes differ"); }
};

template <class T>
struct SiluBackward {
  static constexpr const char* name = "silu_backward";
  View<const T, 1> dy, x;
  View<T, 1> dx;
  void check() const {
    HEADWAY_CHECK(x.size[0] == dy.size[0] && dx.size[0] == dy.size[0], ShapeError,
                  "silu_backward: sizes differ");
  }
};

template <class T>
struct SwiGluForward {
  static constexpr const char* name = "swiglu_forward";
  View<const T, 1> gate, up;
  View<T, 1> y;
  void check() const {
    HEADWAY_CHECK(gate.size[0] == y.size[0] && up.size[0] == y.size[0], ShapeError,
                  "swiglu_forward: sizes differ");
  }
};

template <class T>
struct SwiGluBackward {
  static constexpr const char* name = "swiglu_backward";
  View<const T, 1> dy, gate, up;
  View<T, 1> dgate, dup;
  void check() const {
    HEADWAY_CHECK(gate.size[0] == dy.size[0] && up.size[0] == dy.size[0] && dgate.size[0] == dy.size[0] &&
                      dup.size[0] == dy.size[0],
                  ShapeError, "swiglu_backward: sizes differ");
  }
};

template <class T>
struct GeluForward {
  static constexpr const char* name = "gelu_forward";
  View<const T, 1> x;
  View<T, 1> y;
  void check() const { HEADWAY_CHECK(x.size[0] == y.size[0], ShapeError, "gelu_forward: sizes differ"); }
};

template <class T>
struct GeluBackward {
  static constexpr const char* name = "gelu_backward";
  View<const T, 1> dy, x;
  View<T, 1> dx;
  void check() const {
    HEADWAY_CHECK(x.size[0] == dy.size[0] && dx.size[0] == dy.size[0], ShapeError,
                  "gelu_backward: sizes differ");
  }
};

}  // namespace headway
