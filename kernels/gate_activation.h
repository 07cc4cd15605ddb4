// The functions a gate may pass its scores through (arXiv 2505.06708, section 3), exp, and their derivatives.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace headway {

enum class GateActivation : uint8_t {
  identity,
  sigmoid,
  ns_sigmoid,  // 0.5 + 0.5 sigmoid: never closes
  silu,
  exponential
};

template <class S>
HEADWAY_HD S logistic(S x) {
  return 1 / (1 + std::exp(-x));
}

template <class S>
HEADWAY_HD S activate(GateActivation kind, S x) {
  switch (kind) {
    case GateActivation::sigmoid:
      return logistic(x);
    case GateActivation::ns_sigmoid:
      return S(0.5) + S(0.5) * logistic(x);
    case GateActivation::silu:
      return x * logistic(x);
    case GateActivation::exponential:
      return std::exp(x);
    case GateActivation::identity:
      break;
  }
  return x;
}

/// d activate / dx
template <class S>
HEADWAY_HD S activation_slope(GateActivation kind, S x) {
  const S s = kind == GateActivation::identity ? S(0) : logistic(x);
  switch (kind) {
    case GateActivation::sigmoid:
      return s * (1 - s);
    case GateActivation::ns_sigmoid:
      return S(0.5) * s * (1 - s);
    case GateActivation::silu:
      return s * (1 + x * (1 - s));
    case GateActivation::exponential:
      return std::exp(x);
    case GateActivation::identity:
      break;
  }
  return 1;
}

}  // namespace headway
