// The validation loss of a model.
#pragma once

#include <vector>

#include "core/comm/communicator.h"
#include "layers/model.h"
#include "trainers/data/batch.h"

namespace headway {

/// Mean loss of the tokens that stand at one place of their examples.
struct PositionLoss {
  double loss = 0;  // nats per token; 0 where there is none
  int64_t num_tokens = 0;
};

struct Evaluation {
  double loss = 0;           // nats per token
  double bits_per_byte = 0;  // 0 where the bytes are not known
  double accuracy = 0;       // share of questions answered right; 0 where there are only texts
  double exact_match = 0;    // share of examples whose every answer is right
  int64_t num_tokens = 0;    // that were asked
  std::vector<PositionLoss> positions = {};  // [seq_len], where by_position asks for them
};

struct EvaluationConfig {
  int64_t tokens = 0;  // rounded up to whole examples; 0: the whole split
  int64_t seq_len = 1;
  bool by_position = false;  // also the loss at each position, by a second forward pass
};

/// The examples of a split of this size that an evaluation reads: ascending and spread evenly.
std::vector<int64_t> evaluated_examples(int64_t num_examples, const EvaluationConfig&);

/// Mean over evaluated_examples() of the validation split. Equal bits from any number of ranks and any
/// train.micro_batch: which examples share a forward pass and in which order their losses are summed follows
/// from the data alone. Collective. DataError where the split holds no token to predict.
Evaluation evaluate(Model&, const ExampleSource&, const EvaluationConfig&, Communicator&, Stream&);

}  // namespace headway
