// Rotary positions (arXiv 2104.09864), half-split pairing: channels i and i + R/2 of a head turn together by
// the angle of the table's row t; channels from R on pass through. The backward pass turns the other way.
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class T>
struct RopeRotate {
  static constexpr const char* name = "rope";

  View<const T, 4> x;           // [B,T,H,Dh]
  View<const Acc<T>, 3> table;  // [T,R/2,2] cosine, sine
  View<T, 4> y;                 // [B,T,H,Dh]
  bool inverse = false;

  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && y.is_contiguous() && y.numel() == x.numel() &&
                      table.size[0] == x.size[1] && 2 * table.size[1] <= x.size[3] && table.is_contiguous(),
                  ShapeError, "rope: sizes do not fit");
  }
};

}  // namespace headway
