// Heads of keys and values repeated for the queries that share them, H = K G:
//
//   y_h = x_{h / G}          dx_k = sum over g < G of dy_{k G + g}
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class T>
struct RepeatHeadsForward {
  static constexpr const char* name = "repeat_heads_forward";

  View<const T, 4> x;  // [B,T,K,Dh]
  View<T, 4> y;        // [B,T,H,Dh]

  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && y.is_contiguous() && x.size[0] == y.size[0] &&
                      x.size[1] == y.size[1] && x.size[3] == y.size[3] && x.size[2] > 0 &&
                      y.size[2] % x.size[2] == 0,
                  ShapeError, "repeat_heads_forward: sizes do not fit");
  }
};

template <class T>
struct RepeatHeadsBackward {
  static constexpr const char* name = "repeat_heads_backward";

  View<const T, 4> dy;  // [B,T,H,Dh]
  View<T, 4> dx;        // [B,T,K,Dh]

  void check() const {
    HEADWAY_CHECK(dx.is_contiguous() && dy.is_contiguous() && dx.size[0] == dy.size[0] &&
                      dx.size[1] == dy.size[1] && dx.size[3] == dy.size[3] && dx.size[2] > 0 &&
                      dy.size[2] % dx.size[2] == 0,
                  ShapeError, "repeat_heads_backward: sizes do not fit");
  }
};

}  // namespace headway
