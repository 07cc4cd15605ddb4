// Checks gradients against central differences, in float64 on the CPU.
//
// The outputs y_k of a function are folded into L = sum_k <y_k, r_k> with random r_k, and dL/dx from the
// engine is compared with the five-point formula
//   (L(x - 2h) - 8 L(x - h) + 8 L(x + h) - L(x + 2h)) / 12h,      error O(h^4)
// with two steps h. Where they disagree (a kink or a jump lies between, such as another choice of a top-k)
// neither says anything about the gradient; no more than a quarter of the elements may be such.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "autograd/variable.h"
#include "core/context.h"

namespace headway {

/// Builds the graph anew at every call from leaves it knows; must read nothing but their values and ctx.
using CheckedFunction = std::function<std::vector<Variable>(Context&)>;

struct GradCheckOptions {
  double step = 1e-3;               // and a tenth of it
  int64_t elements_per_leaf = 100;  // evenly spread; all of them where there are fewer
  double repeat_tolerance = 1e-12;
};

struct GradCheck {
  /// Largest difference of an element of a gradient, relative to the largest element of that gradient (or to
  /// 1e-3 where all are smaller), over the elements whose quotients agree; infinite where one of the checks
  /// below fails.
  double error = 0;
  /// Where: "leaf 1 [3]: gradient 0.25, difference quotient 0.5", or what else went wrong.
  std::string worst;
};

/// leaves: contiguous f64 leaves of the function, whose values are changed and restored. Also checks that
/// - a first backward pass overwrites the gradient buffers and a second one adds the same again,
/// - the function gives the same outputs when it does not record.
/// Random numbers start at the same position of ctx.rng in every call. ctx.recording may be anything.
GradCheck gradcheck(Context& ctx, const CheckedFunction&, std::span<const Variable> leaves,
                    const GradCheckOptions& = {});

}  // namespace headway
