// The validation loss of a model.
#pragma once

#include "core/comm/communicator.h"
#include "layers/model.h"
#include "trainers/data/batch.h"

namespace headway {

struct Evaluation {
  double loss = 0;           // nats per token
  double bits_per_byte = 0;  // 0 where the bytes are not known
  double accuracy = 0;       // share of questions answered right; 0 where there are only texts
  double exact_match = 0;    // share of examples whose every answer is right
  int64_t num_tokens = 0;    // that were asked
};

struct EvaluationConfig {
  int64_t batches = 0;  // of micro_batch windows, over all ranks; 0: the whole split
  int64_t micro_batch = 1;
  int64_t seq_len = 1;
};

/// Mean over the first examples of the validation split, which do not depend on the number of ranks.
/// Collective. DataError where the split holds no token to predict.
Evaluation evaluate(Model&, const ExampleSource&, const EvaluationConfig&, Communicator&, Stream&);

}  // namespace headway
