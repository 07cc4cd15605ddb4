// Compares an attention layer with a golden case: a file that records a layer's keys, parameters and inputs,
// and the outputs and gradients that an independent float64 implementation gives for them. The layout is
// explained in tests/golden/README.md.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"
#include "core/io/archive.h"

namespace headway {

/// One output or gradient of a case.
struct ParityError {
  std::string name;  // "y", "grad x", "grad query.weight", "balance_loss"
  /// Largest difference, relative to the largest element of the recorded tensor, or of all gradients (all
  /// outputs) where it is zero; NaN where one is.
  double error = 0;
};

struct ParityCase {
  std::string kind;  // model.attention.kind
  double selection_margin =
      -1;  // smallest score difference that decides a choice; negative: nothing is chosen
  std::vector<ParityError> errors;

  const ParityError& worst() const;
};

/// How a case is run.
struct ParityRun {
  DType dtype = DType::f64;
  Device device = {};
  /// What inputs, parameters and upstream gradients are rounded to before they become the run's dtype: a run
  /// in f64 of rounded inputs is the yardstick of a run in the narrow dtype.
  DType inputs = DType::f64;
};

/// Builds the layer of a case, runs it forward and backward and compares every recorded output, buffer and
/// gradient. ConfigError for an unknown kind or key, CheckpointError for a file that is no such case or does
/// not fit the layer's parameters.
ParityCase run_parity(const std::filesystem::path& file, const ParityRun&);
/// The same from an open archive.
ParityCase run_parity(ArchiveReader&, const ParityRun&);

}  // namespace headway
