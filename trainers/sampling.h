// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>

#include "core/rng.h"

namespace headway {

struct SamplingConfig {
  double temperature = 0.8;  // 0: always the most likely token
  int64_t top_k = 0;         // only among this many most likely tokens; 0: all
};

/// Draws from softmax(logits / temperature) over the top_k largest. Ties go to the smaller id; the draw uses
/// element `draw` of key, so equal keys give equal texts on every backend with equal logits.
int32_t sample_token(std::span<const float> logits, const SamplingConfig&, const RandomKey& key,
                     uint64_t draw);

}  // namespace headway
