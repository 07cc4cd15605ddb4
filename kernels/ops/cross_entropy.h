// Cross entropy of rows of logits: loss[n] = log sum exp(logits[n]) - logits[n, target[n]], in nats; rows
// with target -1 count nothing. The gradient, (softmax - onehot) * scale, replaces the logits where asked
// for.
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class T>
struct CrossEntropy {
  static constexpr const char* name = "cross_entropy";

  View<T, 2> logits;               // [N,V], contiguous
  View<const int32_t, 1> targets;  // [N], -1 or 0 <= target < V
  View<Acc<T>, 1> losses;          // [N], 0 where the target is -1
  double scale = 1;
  bool write_gradient = false;

  void check() const {
    HEADWAY_CHECK(
        logits.is_contiguous() && targets.size[0] == logits.size[0] && losses.size[0] == logits.size[0],
        ShapeError, "cross_entropy: sizes do not fit");
  }
};

/// sum[0] (+)= scale * sum over i of values[i], added in a fixed order in double.
template <class T>
struct SumRows {
  static constexpr const char* name = "sum_rows";
  View<const T, 1> values;
  View<T, 1> sum;
  double scale = 1;
  bool accumulate = false;
  void check() const { HEADWAY_CHECK(sum.size[0] == 1, ShapeError, "sum_rows: one sum is expected"); }
};

}  // namespace headway
