// Compares an attention layer with a golden case: a file that records a layer's keys, parameters and inputs,
// and the outputs and gradients that an independent float64 implementation gives for them. The layout is
// explained in tests/golden/README.md.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace headway {

/// One output or gradient of a case.
struct ParityError {
  std::string name;  // "y", "grad x", "grad query.weight", "balance_loss"
  double error =
      0;  // largest difference, relative to the largest element of the recorded tensor; NaN where one is
};

struct ParityCase {
  std::string kind;  // model.attention.kind
  double selection_margin =
      -1;  // smallest score difference that decides a choice; negative: nothing is chosen
  std::vector<ParityError> errors;

  const ParityError& worst() const;
};

/// Builds the layer of a case on the CPU in f64 or f32, runs it forward and backward and compares every
/// recorded output, buffer and gradient. ConfigError for an unknown kind or key, CheckpointError for a file
/// that is no such case or does not fit the layer's parameters.
ParityCase run_parity(const std::filesystem::path& file, DType);

}  // namespace headway
