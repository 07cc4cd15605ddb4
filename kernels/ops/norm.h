// Normalisation of the rows of x [N,D]; where an update is given, of sum = x + update, which is stored too.
//
//   rms:    y = x / sqrt(mean(x^2) + eps) * weight                              (arXiv 1910.07467)
//   layer:  y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias              (arXiv 1607.06450)
//
// With xhat the normalised row and g = dy * weight:
//   rms:    dx = inv (g - xhat mean(g xhat))
//   layer:  dx = inv (g - mean(g) - xhat mean(g xhat))
//   (and dx is added to `added` where that is given, which may be the same memory)
//   dweight (+)= sum over rows of dy * xhat,   dbias (+)= sum over rows of dy
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

enum class NormKind : uint8_t { rms, layer };

template <class T>
struct NormForward {
  static constexpr const char* name = "norm_forward";

  NormKind kind = NormKind::rms;
  double eps = 0;
  View<const T, 2> x;            // [N,D]
  View<const Acc<T>, 1> weight;  // [D]
  View<const Acc<T>, 1> bias;    // [D], optional, layer only
  View<const T, 2> update = {};  // [N,D], optional
  View<T, 2> sum = {};           // [N,D], with an update only
  View<T, 2> y;                  // [N,D]
  View<Acc<T>, 1> mean;          // [N], layer only
  View<Acc<T>, 1> inverse;       // [N], 1 / sqrt(... + eps)

  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && y.is_contiguous() && y.numel() == x.numel() &&
                      weight.size[0] == x.size[1] && inverse.size[0] == x.size[0] &&
                      (kind == NormKind::rms || mean.size[0] == x.size[0]) &&
                      (!bias || bias.size[0] == x.size[1]) &&
                      (!update || (update.is_contiguous() && update.numel() == x.numel() &&
                                   sum.is_contiguous() && sum.numel() == x.numel())),
                  ShapeError, "norm_forward: sizes do not fit");
  }
};

template <class T>
struct NormBackward {
  static constexpr const char* name = "norm_backward";

  NormKind kind = NormKind::rms;
  View<const T, 2> dy, x;        // [N,D]
  View<const Acc<T>, 1> weight;  // [D]
  View<const Acc<T>, 1> mean;    // [N], layer only
  View<const Acc<T>, 1> inverse;
  View<const T, 2> added = {};  // [N,D], optional
  View<T, 2> dx;                // [N,D]
  View<Acc<T>, 1> dweight;      // [D]
  View<Acc<T>, 1> dbias;        // [D], optional
  bool accumulate_weight = false;
  bool accumulate_bias = false;

  void check() const {
    HEADWAY_CHECK(x.is_contiguous() && dy.is_contiguous() && dx.is_contiguous() && dy.numel() == x.numel() &&
                      dx.numel() == x.numel() &&
                      (!added || (added.is_contiguous() && added.numel() == x.numel())) &&
                      weight.size[0] == x.size[1] && dweight.size[0] == x.size[1] &&
                      inverse.size[0] == x.size[0] && (!dbias || dbias.size[0] == x.size[1]),
                  ShapeError, "norm_backward: sizes do not fit");
  }
};

}  // namespace headway
