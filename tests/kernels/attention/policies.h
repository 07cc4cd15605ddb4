// Policies of the tests: score hooks, key ranges and combinations of slots that no product variant has.
#pragma once

#include <cmath>

#include "kernels/attention/softmax_variant.h"

namespace headway::testing {

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
/// Scores that fall with the distance by a learned slope of the head (arXiv 2108.12409 with slopes of its
/// own).
struct LearnedSlopes : SoftmaxVariant {
  static constexpr Slots slots = Slots::head_parameter;
  template <class S>
  HEADWAY_HD static S score(const Params&, S s, Learned<S> learned, Coord at) {
    return s - learned.head * S(0.05f * static_cast<float>(at.query - at.key));
  }
  template <class S>
  HEADWAY_HD static S score_grad(const Params&, S, Learned<S>, Coord) {
    return S(1);
  }
};
/// A bias of the head for each distance, those from the last on being one (arXiv 1910.10683, section 2.1),
/// and numbers of rows and keys.
struct Buckets : SoftmaxVariant {
  static constexpr Slots slots = Slots::head_parameter | Slots::row_parameter | Slots::key_parameter;
  struct Params {
    int count = 5;
  };
  HEADWAY_HD static int num_head_parameters(const Params& params) { return params.count; }
  HEADWAY_HD static int head_parameter(const Params& params, Coord at) {
    const int distance = at.query - at.key;
    return distance < params.count ? distance : params.count - 1;
  }
  template <class S>
  HEADWAY_HD static S score(const Params&, S s, Learned<S> learned, Coord) {
    using std::tanh;
    return s * learned.row + tanh(s) * learned.key + learned.head;
  }
};
/// Every slot and every hook at once; the score also depends on where it is.
struct Everything : FirstAndWindow {
  static constexpr Slots slots = Slots::row_scale | Slots::row_bias | Slots::key_bias | Slots::key_end |
                                 Slots::row_index | Slots::sink | Slots::head_parameter |
                                 Slots::row_parameter | Slots::key_parameter;
  HEADWAY_HD static int num_head_parameters(const Params&) { return 3; }
  HEADWAY_HD static int head_parameter(const Params&, Coord at) { return (at.query + at.key) % 3; }
  template <class S>
  HEADWAY_HD static S score(const Params&, S s, Learned<S> learned, Coord at) {
    using std::tanh;
    const S far = S(0.01f * static_cast<float>((at.head + 1) * (at.query - at.key) + at.batch));
    return tanh(s * learned.row / S(3)) * S(3) - far * learned.head + s * learned.key;
  }
};

}  // namespace headway::testing
