// Heads of keys and values repeated for the queries that share them (equation in kernels/ops/repeat_heads.h).
#pragma once

#include "autograd/variable.h"
#include "core/context.h"

namespace headway {

/// x [B,T,K,Dh] -> [B,T,num_heads,Dh], num_heads a multiple of K: head h is x's head h K / num_heads. x
/// itself where K = num_heads.
Variable repeat_heads(Context&, const Variable& x, int64_t num_heads);

}  // namespace headway
