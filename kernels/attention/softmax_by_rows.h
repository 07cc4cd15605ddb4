// The softmax core forward (softmax.h) with every row computed on its own: scores, their maximum, and then
// sums over the visible keys in the order of their positions. A row gets the same bits whatever rows are
// computed with it, and whether the keys it does not see are there or were forgotten. Slower than the tiled
// kernels; for inference where a layer compares numbers to choose keys or heads.
#pragma once

#include "kernels/attention/softmax.h"

namespace headway {

template <class V, class T>
struct SoftmaxByRows : SoftmaxForward<V, T> {
  static constexpr const char* name = "softmax_by_rows";
};

}  // namespace headway
