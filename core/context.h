// What an operation needs beside its tensors: the place, the random numbers, the mode, and where to report.
#pragma once

#include <string_view>

#include "core/rng.h"
#include "core/stream.h"

namespace headway {

class LossCollector;  // autograd: auxiliary losses of layers
class SequenceSplit;

/// Receives named figures from layers (gate means, head loads); only present on steps that log them.
class MetricSink {
 public:
  virtual ~MetricSink() = default;
  virtual void add(std::string_view name, double value) = 0;
};

struct Context {
  Stream& stream;
  Rng& rng;
  bool training = false;
  /// Operations keep what their backward needs; false in evaluation and generation.
  bool recording = false;
  /// The forward pass of a block runs a second time: statistics were taken the first time.
  bool recomputing = false;
  /// Projections and softmax attention give a row the same bits whatever rows are computed with it
  /// (kernels/ops/linear_by_rows.h): inference of models in which a layer chooses by comparing numbers.
  bool row_invariant = false;
  /// How ranks share the sequences (core/comm/sequence_split.h); null: each rank has whole ones.
  const SequenceSplit* split = nullptr;
  LossCollector* auxiliary = nullptr;
  MetricSink* metrics = nullptr;

  Device device() const { return stream.device(); }
};

}  // namespace headway
