// Policies of the tests: score hooks, key ranges and combinations of slots that no product variant has.
#pragma once

#include <cmath>

#include "kernels/attention/softmax_variant.h"

namespace headway::testing {

struct GatheredRows : SoftmaxVariant {
  static constexpr Slots slots = Slots::row_scale | Slots::row_index;
};
struct SoftCap : SoftmaxVariant {
  struct Params {
    float cap;
  };
  template <class S>
  HEADWAY_HD static S score(const Params& params, S s, Coord) {
    using std::tanh;
    return tanh(s / S(params.cap)) * S(params.cap);
  }
};
/// The first tokens and a window: two intervals that never overlap.
struct FirstAndWindow : SoftmaxVariant {
  static constexpr int intervals = 2;
  struct Params {
    int first, window;
  };
  HEADWAY_HD static int begin(const Params& params, int i, int interval) {
    const int start = i - params.window + 1;
    return interval == 0 ? 0 : start < params.first ? params.first : start;
  }
  HEADWAY_HD static int end(const Params& params, int i, int interval) {
    return interval == 1 || i + 1 < params.first ? i + 1 : params.first;
  }
};
/// Sees its own document of `length` tokens, except that a document's first token sees nothing.
struct Documents : SoftmaxVariant {
  struct Params {
    int length;
  };
  HEADWAY_HD static int begin(const Params& params, int i, int) { return i / params.length * params.length; }
  HEADWAY_HD static int end(const Params&, int i, int) { return i; }
};
/// Not normalised, with the bias of scores that its paper adds.
struct SigmoidWeights : SoftmaxVariant {
  using Weight = Sigmoid;
  struct Params {
    float bias;
  };
  template <class S>
  HEADWAY_HD static S score(const Params& params, S s, Coord) {
    return s + S(params.bias);
  }
};
/// Normalised but no softmax, with the slots that such weights may have.
struct SecondOrderWeights : WindowVariant {
  using Weight = SecondOrder;
  static constexpr Slots slots =
      Slots::row_scale | Slots::row_bias | Slots::key_bias | Slots::key_end | Slots::row_index;
};
/// Every slot and every hook at once; the score also depends on where it is.
struct Everything : FirstAndWindow {
  static constexpr Slots slots =
      Slots::row_scale | Slots::row_bias | Slots::key_bias | Slots::key_end | Slots::row_index | Slots::sink;
  template <class S>
  HEADWAY_HD static S score(const Params&, S s, Coord at) {
    using std::tanh;
    return tanh(s / S(3)) * S(3) -
           S(0.01f * static_cast<float>((at.head + 1) * (at.query - at.key) + at.batch));
  }
};

}  // namespace headway::testing
