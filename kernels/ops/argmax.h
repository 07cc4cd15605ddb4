// The column of the largest number of each row; of equal ones the first. A row with NaN has -1.
#pragma once

#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class T>
struct ArgmaxRows {
  static constexpr const char* name = "argmax_rows";
  View<const T, 2> x;       // [N,V], contiguous, V > 0
  View<int32_t, 1> column;  // [N]
  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && x.size[1] > 0 && column.size[0] == x.size[0], ShapeError,
                  "argmax_rows: sizes do not fit");
  }
};

}  // namespace headway
