// What the linear family keeps of the tokens so far: a matrix per head, and the rows that short convolutions
// look back on. Variables, so that gradients may pass from segment to segment.
#pragma once

#include <vector>

#include "layers/attention/attention_layer.h"
#include "layers/attention/row_history.h"

namespace headway {

struct RecurrentState : AttentionState {
  Variable matrix;   // as in kernels/ops/linear_attention.h; undefined: zero
  Tensor log_scale;  // [B,H], where a kind divides the matrix by exp(log_scale) to keep it in range
  std::vector<RowHistory> convolutions;  // of queries, keys and values, where the kind has short convolutions
};

}  // namespace headway
