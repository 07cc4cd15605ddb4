// y[n] = weight[ids[n]], and its gradient dweight[v] (+)= sum over n with ids[n] = v of dy[n].
#pragma once

#include "core/dtype.h"
#include "core/token_positions.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

template <class T>
struct EmbeddingForward {
  static constexpr const char* name = "embedding_forward";

  View<const int32_t, 1> ids;  // [N], 0 <= id < V: checked where data enters
  View<const T, 2> weight;     // [V,D]
  View<T, 2> y;                // [N,D]

  void check() const {
    HEADWAY_CHECK(y.size[0] == ids.size[0] && y.size[1] == weight.size[1] && weight.is_contiguous() &&
                      y.is_contiguous(),
                  ShapeError, "embedding_forward: sizes do not fit");
  }
};

template <class T>
struct EmbeddingBackward {
  static constexpr const char* name = "embedding_backward";

  View<const int32_t, 1> ids;  // [N]
  View<const T, 2> dy;         // [N,D]
  View<Acc<T>, 2> dweight;     // [V,D]
  bool accumulate = false;

  void check() const {
    HEADWAY_CHECK(dy.size[0] == ids.size[0] && dy.size[1] == dweight.size[1] && dy.is_contiguous() &&
                      dweight.is_contiguous(),
                  ShapeError, "embedding_backward: sizes do not fit");
  }
};

/// y[b,t] = x[b,t] + weight[p_t]: learned positions, p_t that of token t.
template <class T>
struct AddPositionsForward {
  static constexpr const char* name = "add_positions_forward";

  View<const T, 3> x;       // [B,T,D]
  View<const T, 2> weight;  // [P,D]
  View<T, 3> y;             // [B,T,D]
  TokenPositions positions;

  void check() const {
    const int64_t last = positions.of(x.size[1] - 1);
    HEADWAY_CHECK(last < weight.size[0], ShapeError,
                  "add_positions: position " + std::to_string(last) + " is beyond the " +
                      std::to_string(weight.size[0]) + " learned ones");
    HEADWAY_CHECK(x.is_contiguous() && y.is_contiguous() && weight.is_contiguous() &&
                      x.size[2] == weight.size[1] && y.numel() == x.numel(),
                  ShapeError, "add_positions_forward: sizes do not fit");
  }
};

/// dweight[p_t] (+)= sum over b of dy[b,t]; rows without a token get zero unless accumulating.
template <class T>
struct AddPositionsBackward {
  static constexpr const char* name = "add_positions_backward";

  View<const T, 3> dy;      // [B,T,D]
  View<Acc<T>, 2> dweight;  // [P,D]
  TokenPositions positions;
  bool accumulate = false;

  void check() const {
    HEADWAY_CHECK(positions.of(dy.size[1] - 1) < dweight.size[0] && dy.size[2] == dweight.size[1] &&
                      dy.is_contiguous() && dweight.is_contiguous(),
                  ShapeError, "add_positions_backward: sizes do not fit");
  }
};

}  // namespace headway
