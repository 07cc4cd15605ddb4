// Hedgehog's feature maps (arXiv 2402.04347, 2410.10254): a row u of Df numbers becomes 2 Df positive
// features [p ; m], spiky as softmax attention is.
//
//   softmax:  p = softmax(u),         m = softmax(-u)                       over Df each
//   exp:      p = exp(u),             m = exp(-u)
//   expmax:   p = exp(u - max u),     m = exp(min u - u)
//   joint:    [p ; m] = softmax([2u ; -2u])                                 over 2 Df
//
// Backward, from the features alone:
//   softmax:  du = p (dp - <dp,p>) - m (dm - <dm,m>)
//   exp:      du = p dp - m dm
//   expmax:   the same, less <dp,p> at the (first) largest u, plus <dm,m> at the smallest
//   joint:    du = 2 (p (dp - s) - m (dm - s)),  s = <dp,p> + <dm,m>
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

enum class HedgehogFeatures : uint8_t { softmax, exp, expmax, joint };

template <class T>
struct HedgehogMapForward {
  static constexpr const char* name = "hedgehog_map_forward";

  HedgehogFeatures features = HedgehogFeatures::softmax;
  View<const T, 2> u;  // [N,Df]
  View<T, 2> y;        // [N,2*Df]

  void check() const {
    HEADWAY_CHECK(u.is_contiguous() && y.is_contiguous() && y.size[0] == u.size[0] &&
                      y.size[1] == 2 * u.size[1] && u.size[1] > 0,
                  ShapeError, "hedgehog_map_forward: sizes do not fit");
  }
};

template <class T>
struct HedgehogMapBackward {
  static constexpr const char* name = "hedgehog_map_backward";

  HedgehogFeatures features = HedgehogFeatures::softmax;
  View<const T, 2> y, dy;  // [N,2*Df]
  View<T, 2> du;           // [N,Df]

  void check() const {
    HEADWAY_CHECK(y.is_contiguous() && dy.is_contiguous() && du.is_contiguous() && dy.numel() == y.numel() &&
                      du.size[0] == y.size[0] && y.size[1] == 2 * du.size[1],
                  ShapeError, "hedgehog_map_backward: sizes do not fit");
  }
};

}  // namespace headway
