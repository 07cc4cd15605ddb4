// Numbers policy for reference kernels: float that rounds to bf16 every value a tensor core would read. Its
// distance from the oracle is the error that bf16 operands make unavoidable.
#pragma once

#include "core/bf16.h"

namespace headway::testing {

struct RoundedBf16 {
  using Real = float;
  static float operand(float x) { return static_cast<float>(bf16(x)); }
};

}  // namespace headway::testing
