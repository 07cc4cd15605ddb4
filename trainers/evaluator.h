// The validation loss of a model.
#pragma once

#include "core/comm/communicator.h"
#include "layers/model.h"
#include "trainers/data/batch.h"

namespace headway {

struct Evaluation {
  double loss = 0;           // nats per token
  double bits_per_byte = 0;  // 0 where the bytes are not known
  int64_t num_tokens = 0;
};

struct EvaluationConfig {
  int64_t batches = 0;  // of micro_batch windows, over all ranks; 0: the whole split
  int64_t micro_batch = 1;
  int64_t seq_len = 1;
};

/// Mean over the first windows of the validation split, which do not depend on the number of ranks.
/// Collective. DataError where the split holds no token to predict.
Evaluation evaluate(Model&, const TokenCorpus&, const EvaluationConfig&, Communicator&, Stream&);

}  // namespace headway
