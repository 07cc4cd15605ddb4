// Batches of token sequences.
#pragma once

#include <vector>

#include "core/tensor.h"
#include "trainers/data/sample_order.h"
#include "trainers/data/token_corpus.h"

namespace headway {

struct Batch {
  Tensor tokens;   // [M,T] i32
  Tensor targets;  // [M,T] i32: the next token, -1 where it does not count
  std::vector<int64_t> sample_ids;
  int64_t num_targets = 0;  // that count
};

/// Sequences at places first .. first + count of the order.
Batch training_batch(const TokenCorpus&, const SampleOrder&, int64_t first, int64_t count, int64_t seq_len,
                     Stream&);

/// Windows first .. first + count of the validation split, in order; windows beyond its end count nothing,
/// and the last one counts the tokens there are.
Batch validation_batch(const TokenCorpus&, int64_t first, int64_t count, int64_t seq_len, Stream&);

/// Windows of seq_len + 1 tokens at a distance of seq_len.
int64_t num_training_samples(const TokenCorpus&, int64_t seq_len);
int64_t num_validation_windows(const TokenCorpus&, int64_t seq_len);

}  // namespace headway
