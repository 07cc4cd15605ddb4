// What a recipe costs, by formula, without running it.
#pragma once

#include <cstdint>
#include <string>

#include "layers/model.h"
#include "trainers/data/text_documents.h"
#include "trainers/recipe.h"

namespace headway {

struct Plan {
  int64_t num_parameters = 0;
  int64_t num_embedding_parameters = 0;  // token and position tables and an untied head
  Flop executed_flop_per_token;          // of our kernels, also what train.recompute makes again
  Flop ideal_flop_per_token;             // of kernels that compute nothing in vain (Cost)

  // bytes on one rank
  double weights = 0, gradients = 0, optimizer = 0;
  double activations = 0;  // kept for backward by one micro-batch
  double logits = 0;
  double workspace = 0;  // temporary: gradients of activations
  double data = 0;       // where documents are; the text itself stays on disk
  double program = 0;    // libraries and their buffers

  double cache_bytes_per_token = 0;  // generation
  double state_bytes = 0;
  double checkpoint_bytes = 0;
  double exchanged_bytes = 0;  // received by a rank in one micro-batch, where ranks share sequences
  double text_files = 0, temporary_text = 0;  // on disk, for all ranks of a machine

  double total_bytes() const {
    return weights + gradients + optimizer + activations + logits + workspace + data + program;
  }
};

Plan make_plan(const Recipe& resolved, const TextSize&, int world_size);
/// The same as a table for people.
std::string to_text(const Plan&, const Recipe& resolved, int world_size);

}  // namespace headway
