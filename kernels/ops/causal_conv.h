// Depthwise causal convolution over time, the last tap at the token itself, optionally followed by SiLU:
//
//   z[t,c] = sum_j weight[c,j] x[t-(K-1)+j, c]        y = z, or silu(z) = z sigmoid(z)
//
// x before token 0 is the history, or zero without one. Backward computes z again where it needs it.
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class T>
struct CausalConvInputs {
  View<const T, 3> x;        // [B,T,C]
  View<const T, 3> history;  // [B,K-1,C], optional
  View<const T, 2> weight;   // [C,K]
  bool silu = false;

  void check(const char* name) const {
    HEADWAY_CHECK(
        x.is_contiguous() && weight.is_contiguous() && weight.size[0] == x.size[2] && weight.size[1] > 0,
        ShapeError, std::string(name) + ": the weight does not fit the channels");
    HEADWAY_CHECK(!history || (history.is_contiguous() && history.size[0] == x.size[0] &&
                               history.size[1] == weight.size[1] - 1 && history.size[2] == x.size[2]),
                  ShapeError, std::string(name) + ": the history does not have K - 1 rows of these channels");
  }
};

template <class T>
struct CausalConvForward {
  static constexpr const char* name = "causal_conv_forward";

  CausalConvInputs<T> in;
  View<T, 3> y;  // [B,T,C]

  void check() const {
    in.check(name);
    HEADWAY_CHECK(y.is_contiguous() && y.numel() == in.x.numel(), ShapeError,
                  "causal_conv_forward: the output does not fit the input");
  }
};

template <class T>
struct CausalConvBackward {
  static constexpr const char* name = "causal_conv_backward";

  CausalConvInputs<T> in;
  View<const T, 3> dy;      // [B,T,C]
  View<T, 3> dx;            // [B,T,C]
  View<T, 3> dhistory;      // [B,K-1,C], optional
  View<Acc<T>, 2> dweight;  // [C,K]
  bool accumulate_weight = false;

  void check() const {
    in.check(name);
    HEADWAY_CHECK(
        dy.is_contiguous() && dx.is_contiguous() && dy.numel() == in.x.numel() &&
            dx.numel() == in.x.numel() && dweight.is_contiguous() && dweight.numel() == in.weight.numel() &&
            (!dhistory || (in.history && dhistory.is_contiguous() && dhistory.numel() == in.history.numel())),
        ShapeError, "causal_conv_backward: gradients do not fit the inputs");
  }
};

}  // namespace headway
