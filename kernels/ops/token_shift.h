// Some channels one token late: y[t,c] = x[t,c] for c < first_shifted, and x[t-1,c] from there on, where
// x[-1] is `previous`, or zero without it. Its backward (inverse): dx[t,c] = dy[t+1,c] on the late channels,
// the last row zero.
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class T>
struct TokenShiftRows {
  static constexpr const char* name = "token_shift";

  View<const T, 3> x;         // [B,T,C]
  View<const T, 3> previous;  // [B,1,C], optional, not with inverse
  View<T, 3> y;               // [B,T,C]
  int64_t first_shifted = 0;
  bool inverse = false;

  void check() const {
    const int64_t C = x.size[2];
    HEADWAY_CHECK(x.is_contiguous() && y.is_contiguous() && y.numel() == x.numel() &&
                      y.size[1] == x.size[1] && y.size[2] == C && first_shifted >= 0 && first_shifted <= C,
                  ShapeError, "token_shift: sizes do not fit");
    HEADWAY_CHECK(!previous || (!inverse && previous.is_contiguous() && previous.size[0] == x.size[0] &&
                                previous.size[1] == 1 && previous.size[2] == C),
                  ShapeError, "token_shift: the row before the first does not fit");
  }
};

}  // namespace headway
