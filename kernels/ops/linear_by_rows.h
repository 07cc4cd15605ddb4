// y = x W^T + b, every number summed on its own over k = 0, 1, 2, ...: a row gets the same bits whatever rows
// are computed with it, on any number of threads and with any BLAS. Slower than the products of matmul.h; for
// inference where a layer compares numbers to choose keys or heads, so that a choice does not depend on the
// other rows.
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class T>
struct LinearByRows {
  static constexpr const char* name = "linear_by_rows";

  View<const T, 2> x;          // [M,K]
  View<const T, 2> weight;     // [N,K]
  View<const Acc<T>, 1> bias;  // optional, [N]
  View<T, 2> y;                // [M,N], contiguous

  void check() const {
    HEADWAY_CHECK(x.size[1] == weight.size[1] && y.size[0] == x.size[0] && y.size[1] == weight.size[0] &&
                      (!bias || bias.size[0] == weight.size[0]),
                  ShapeError, "linear_by_rows: sizes do not fit");
    HEADWAY_CHECK(x.stride[1] == 1 && weight.stride[1] == 1 && y.is_contiguous(), ShapeError,
                  "linear_by_rows: rows must be contiguous");
  }
};

}  // namespace headway
