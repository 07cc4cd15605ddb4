// Root-mean-square norm of the rows of x [N,D], times a gate of the same shape (arXiv 2405.17381, eqs. 9-11).
//
//   n = x / sqrt(mean(x^2) + eps)              y = n * weight * act(gate),  act(u) = u or sigmoid(u)
//
// With g = dy * weight * act(gate):
//   dx = inv (g - n mean(g n)),   dgate = dy * n * weight * act'(gate),
//   dweight (+)= sum over rows of dy * n * act(gate)
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/gate_activation.h"
#include "kernels/op.h"

namespace headway {

namespace detail {

inline void check_norm_gate(GateActivation activation, const char* name) {
  HEADWAY_CHECK(activation == GateActivation::identity || activation == GateActivation::sigmoid, ShapeError,
                std::string(name) + ": expected the gate itself or its sigmoid");
}

}  // namespace detail

template <class T>
struct GatedNormForward {
  static constexpr const char* name = "gated_norm_forward";

  GateActivation activation = GateActivation::identity;
  double eps = 0;
  View<const T, 2> x;            // [N,D]
  View<const Acc<T>, 1> weight;  // [D], optional: ones
  View<const T, 2> gate;         // [N,D], optional: no gate
  View<T, 2> y;                  // [N,D]
  View<Acc<T>, 1> inverse;       // [N], 1 / sqrt(mean(x^2) + eps)

  void check() const {
    detail::check_norm_gate(activation, name);
    HEADWAY_CHECK(x.is_contiguous() && y.is_contiguous() && y.numel() == x.numel() &&
                      inverse.size[0] == x.size[0] && (!weight || weight.size[0] == x.size[1]) &&
                      (!gate || (gate.is_contiguous() && gate.numel() == x.numel())),
                  ShapeError, "gated_norm_forward: sizes do not fit");
  }
};

template <class T>
struct GatedNormBackward {
  static constexpr const char* name = "gated_norm_backward";

  GateActivation activation = GateActivation::identity;
  View<const T, 2> dy, x;        // [N,D]
  View<const Acc<T>, 1> weight;  // [D], optional
  View<const T, 2> gate;         // [N,D], optional
  View<const Acc<T>, 1> inverse;
  View<T, 2> dx;            // [N,D]
  View<T, 2> dgate;         // [N,D], with a gate
  View<Acc<T>, 1> dweight;  // [D], with a weight
  bool accumulate_weight = false;

  void check() const {
    detail::check_norm_gate(activation, name);
    const auto fits = [this](const auto& view) { return view.is_contiguous() && view.numel() == x.numel(); };
    HEADWAY_CHECK(x.is_contiguous() && fits(dy) && fits(dx) && inverse.size[0] == x.size[0] &&
                      (!gate || (fits(gate) && fits(dgate))) &&
                      (!weight || (weight.size[0] == x.size[1] && dweight.size[0] == x.size[1])),
                  ShapeError, "gated_norm_backward: sizes do not fit");
  }
};

}  // namespace headway
