// Sums and masks of whole tensors, all contiguous.
#pragma once

#include "core/dtype.h"
#include "core/rng.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

/// y = a + b
template <class T>
struct AddForward {
  static constexpr const char* name = "add";
  View<const T, 1> a, b;
  View<T, 1> y;
  void check() const {
    HEADWAY_CHECK(a.size[0] == y.size[0] && b.size[0] == y.size[0], ShapeError, "add: sizes differ");
  }
};

/// y = factor x. Its own backward, with dy for x.
template <class T>
struct ScaleForward {
  static constexpr const char* name = "scale";
  View<const T, 1> x;
  View<T, 1> y;
  double factor = 1;
  void check() const { HEADWAY_CHECK(x.size[0] == y.size[0], ShapeError, "scale: sizes differ"); }
};

/// y = x / (1 - rate) where uniform(key, i) >= rate, else 0. Its own backward, with dy for x.
template <class T>
struct DropoutMask {
  static constexpr const char* name = "dropout";
  View<const T, 1> x;
  View<T, 1> y;
  RandomKey key;
  double rate = 0;
  void check() const { HEADWAY_CHECK(x.size[0] == y.size[0], ShapeError, "dropout: sizes differ"); }
};

}  // namespace headway
