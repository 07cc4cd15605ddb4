// QK-norm in one pass with rotary positions: RMSNorm (arXiv 1910.07467) over each head, then the rotation of
// rope.h, R_t for token t. Without a table nothing is rotated.
//
//   y = R_t (x inv * weight),   inv = 1 / sqrt(mean(x^2) + eps)
//
// With g = R_t^T dy and xhat = x inv:
//   dx = inv (g * weight - xhat mean(g * weight * xhat))
//   dweight (+)= sum over tokens and heads of g * xhat
#pragma once

#include <string>

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

namespace detail {
/// x and what belongs to it, of either direction.
template <class Args>
void check_norm_rope(const Args& a) {
  HEADWAY_CHECK(a.x.is_contiguous() && a.weight.size[0] == a.x.size[3] &&
                    a.inverse.size[0] == a.x.size[0] * a.x.size[1] * a.x.size[2] &&
                    (!a.table || (a.table.is_contiguous() && a.table.size[0] == a.x.size[1] &&
                                  2 * a.table.size[1] <= a.x.size[3])),
                ShapeError, std::string(Args::name) + ": sizes do not fit");
}
}  // namespace detail

template <class T>
struct NormRopeForward {
  static constexpr const char* name = "norm_rope_forward";

  double eps = 0;
  View<const T, 4> x;            // [B,T,H,Dh]
  View<const Acc<T>, 1> weight;  // [Dh]
  View<const Acc<T>, 3> table;   // [T,R/2,2] cosine, sine; optional
  View<T, 4> y;                  // [B,T,H,Dh]
  View<Acc<T>, 1> inverse;       // [B T H]

  void check() const {
    detail::check_norm_rope(*this);
    HEADWAY_CHECK(y.is_contiguous() && y.numel() == x.numel(), ShapeError,
                  "norm_rope_forward: sizes do not fit");
  }
};

template <class T>
struct NormRopeBackward {
  static constexpr const char* name = "norm_rope_backward";

  View<const T, 4> dy, x;         // [B,T,H,Dh]
  View<const Acc<T>, 1> weight;   // [Dh]
  View<const Acc<T>, 3> table;    // optional
  View<const Acc<T>, 1> inverse;  // [B T H]
  View<T, 4> dx;                  // [B,T,H,Dh]
  View<Acc<T>, 1> dweight;        // [Dh]
  bool accumulate_weight = false;

  void check() const {
    detail::check_norm_rope(*this);
    HEADWAY_CHECK(dy.is_contiguous() && dx.is_contiguous() && dy.numel() == x.numel() &&
                      dx.numel() == x.numel() && dweight.size[0] == x.size[3],
                  ShapeError, "norm_rope_backward: sizes do not fit");
  }
};

}  // namespace headway
