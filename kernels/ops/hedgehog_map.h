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
//
// exp overflows where the others cannot. There queries are divided by exp(a_t), a_t = max |u_t|, which
// cancels, and keys and state by exp(c_t), c_t = max(0, max over tokens so far of |u| - bound), which every
// key of a head shares; between tokens the state fades by exp(c_{t-1} - c_t). Both are constants for the
// gradient.
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
  View<const T, 2> u;                // [N,Df]
  View<const Acc<T>, 1> shift = {};  // [N], optional, exp only: features are divided by exp(shift)
  View<T, 2> y;                      // [N,2*Df]

  void check() const {
    HEADWAY_CHECK(u.is_contiguous() && y.is_contiguous() && y.size[0] == u.size[0] &&
                      y.size[1] == 2 * u.size[1] && u.size[1] > 0 &&
                      (!shift || (shift.size[0] == u.size[0] && features == HedgehogFeatures::exp)),
                  ShapeError, "hedgehog_map_forward: sizes do not fit");
  }
};

/// The shifts of exp, and what the core needs beside them.
template <class T>
struct HedgehogShift {
  static constexpr const char* name = "hedgehog_shift";

  View<const T, 4> query, key;   // u, [B,T,H,Df]
  View<const Acc<T>, 2> before;  // c before the first token, [B,H], optional: zero
  double bound = 0;              // largest exponent of a key
  double eps = 0, smallest = 0;  // what is added to a denominator, and the least of it after the shift
  View<Acc<T>, 3> query_shift;   // a, [B,T,H]
  View<Acc<T>, 3> key_shift;     // c, [B,T,H]
  View<Acc<T>, 3> log_decay;     // c_{t-1} - c_t
  View<Acc<T>, 3> token_eps;     // max(eps exp(-a_t - c_t), smallest)
  View<Acc<T>, 2> after;         // c after the last token, [B,H]

  void check() const {
    const auto per_token = [this](const auto& x) {
      return x.is_contiguous() && x.size[0] == key.size[0] && x.size[1] == key.size[1] &&
             x.size[2] == key.size[2];
    };
    const auto per_head = [this](const auto& x) {
      return x.is_contiguous() && x.size[0] == key.size[0] && x.size[1] == key.size[2];
    };
    HEADWAY_CHECK(query.is_contiguous() && key.is_contiguous() && query.numel() == key.numel() &&
                      per_token(query_shift) && per_token(key_shift) && per_token(log_decay) &&
                      per_token(token_eps) && per_head(after) && (!before || per_head(before)),
                  ShapeError, "hedgehog_shift: sizes do not fit");
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
