// to[i] += from[i], or to[i] = from[i]: how gradients from several places meet, with a change of dtype where
// the activations are narrower than the gradients of parameters.
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class To, class From>
struct Accumulate {
  static constexpr const char* name = "accumulate";

  View<To, 1> to;
  View<const From, 1> from;
  bool overwrite = false;

  void check() const {
    HEADWAY_CHECK(
        to.size[0] == from.size[0] && to.is_contiguous() && from.is_contiguous(), ShapeError,
        "accumulate: " + std::to_string(from.size[0]) + " elements into " + std::to_string(to.size[0]));
  }
};

}  // namespace headway
