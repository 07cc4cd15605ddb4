// Batches of examples.
#pragma once

#include <span>
#include <vector>

#include "core/comm/sequence_split.h"
#include "core/tensor.h"
#include "trainers/data/example_source.h"
#include "trainers/data/sample_order.h"

namespace headway {

struct Batch {
  Tensor tokens;   // [M,T] i32, on the stream's device
  Tensor targets;  // [M,T] i32: the token that should follow, -1 where nothing is asked
  std::vector<int64_t> sample_ids = {};
  int64_t num_targets = 0;  // that are asked
  Tensor on_host = {};      // [2,M,T], what the device copies from: kept until it has
};

/// Places first .. first + count of the training order.
struct SampleRange {
  int64_t first = 0;
  int64_t count = 0;
};

/// The training examples there: all of each, or what this rank holds of it. split: null or how ranks share
/// them.
Batch training_batch(const ExampleSource&, const SampleOrder&, const SampleRange&, int64_t seq_len,
                     const SequenceSplit* split, Stream&);

/// These validation examples.
Batch validation_batch(const ExampleSource&, std::span<const int64_t> examples, int64_t seq_len, Stream&);

}  // namespace headway
