// Scores and choice of keys of dynamic mask attention (arXiv 2508.02124), per key/value head, from u
// [B,Tk,K]:
//
//   a_j = A log(1 + exp(u_j))       delta_j = exp(a_j)  or  a_j
//   key j is kept at position i >= j while fewer than top_w of the keys 0..i have a larger (a, index)
//
// The number of better keys only grows with i, so a kept set is one number per key: e_j, the first position
// that does not keep it (kNeverDropped where there is none; so it is for a score that is no number). The
// choice is a constant for gradients.
//
// Backward, with s = logistic(u): da_j = ddelta_j delta_j or ddelta_j; du_j = da_j A s_j; dA = sum of da_j
// log(1+exp(u_j)).
#pragma once

#include <limits>

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

/// e_j of a key that every later position keeps.
inline constexpr int32_t kNeverDropped = std::numeric_limits<int32_t>::max();

template <class T>
struct DynamicMaskForward {
  static constexpr const char* name = "dynamic_mask_forward";
  View<const T, 3> u;          // [B,Tk,K]
  View<const Acc<T>, 1> rate;  // [K]: A
  int64_t top_w = 1;
  bool exponential = true;
  View<Acc<T>, 3> key_bias;  // [B,K,Tk]: delta
  View<int32_t, 3> key_end;  // [B,K,Tk]: e

  void check() const {
    HEADWAY_CHECK(key_bias.is_contiguous() && key_end.is_contiguous() && rate.size[0] == u.size[2] &&
                      key_bias.numel() == u.numel() && key_end.numel() == u.numel() && top_w >= 1,
                  ShapeError, "dynamic_mask_forward: sizes do not fit");
  }
};

template <class T>
struct DynamicMaskBackward {
  static constexpr const char* name = "dynamic_mask_backward";
  View<const T, 3> u;
  View<const Acc<T>, 1> rate;
  bool exponential = true;
  View<const Acc<T>, 3> dkey_bias;  // [B,K,Tk]
  View<T, 3> du;
  View<Acc<T>, 1> drate;  // [K]

  void check() const {
    HEADWAY_CHECK(u.is_contiguous() && du.is_contiguous() && dkey_bias.is_contiguous() &&
                      du.numel() == u.numel() && dkey_bias.numel() == u.numel() && drate.size[0] == u.size[2],
                  ShapeError, "dynamic_mask_backward: sizes do not fit");
  }
};

}  // namespace headway
