// Softmax attention over all earlier tokens, or those of a window, with or without a cache.
#pragma once

#include "layers/attention/kv_cache.h"
#include "layers/attention/projections.h"

namespace headway {

/// Appends the new keys and values to the cache, where there is one, and puts all of its own in their place.
/// Returns the position of the first new token.
int64_t append_to_cache(Context&, QueryKeyValue&, KvCache* cache);

struct CausalOptions {
  int64_t window = 0;  // latest keys seen, the token's own included; 0: all
  double dropout = 0;  // share of the weights that training drops
  Variable sink = {};  // [H], where defined: a logit in every row's denominator that carries no value
};

/// query [B,T,H,Dh], key and value [B,T,K,Dh] of new tokens -> [B,T,H,Dh]. With a cache the new keys and
/// values are appended to it, and its older ones are seen too.
Variable causal_attention(Context&, QueryKeyValue, const CausalOptions&, KvCache* cache);

/// [B,T,H,Dh] -> [B,T,H Dh]
Variable merge_heads(Context&, const Variable&);

}  // namespace headway
