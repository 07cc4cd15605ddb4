#pragma once

#include "autograd/variable.h"

namespace headway {

/// Heads, query [B,T,H,Dh], key and value [B,T,K,Dh], or the rows [B,T,C] that are to be split into them.
struct QueryKeyValue {
  Variable query, key, value;
};

}  // namespace headway
