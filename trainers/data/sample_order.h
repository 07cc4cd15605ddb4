// Which sample stands at which place of an endless training order.
//
// What a sample is, its source knows (trainers/data/text_windows.h for text). Each epoch visits every sample
// once, in an order that is a keyed permutation of the indices: place p of the order is computed from (seed,
// epoch, p), so a run's position is one integer and any number of ranks sees the same batches.
#pragma once

#include <cstdint>

namespace headway {

class SampleOrder {
 public:
  /// num_samples > 0.
  SampleOrder(uint64_t seed, int64_t num_samples) : seed_(seed), num_samples_(num_samples) {}

  /// Sample at place `position` >= 0 of the order: a permutation of 0..num_samples-1 in each epoch.
  int64_t sample(int64_t position) const;
  int64_t epoch(int64_t position) const { return position / num_samples_; }
  int64_t num_samples() const { return num_samples_; }

 private:
  uint64_t seed_;
  int64_t num_samples_;
};

}  // namespace headway
