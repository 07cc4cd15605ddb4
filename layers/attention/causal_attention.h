// Softmax attention over all earlier tokens, or those of a window.
#pragma once

#include "autograd/ops/softmax_attention.h"

namespace headway {

struct CausalOptions {
  int64_t window = 0;        // latest keys seen, the token's own included; 0: all
  double dropout = 0;        // share of the weights that training drops
  int64_t query_offset = 0;  // position of the first query among the keys
};

/// q [B,T,H,Dh], k and v [B,Tk,K,Dh], and a sink [H] or none -> [B,T,H,Dh]
Variable causal_attention(Context&, const SoftmaxInputs&, const CausalOptions&);

}  // namespace headway
