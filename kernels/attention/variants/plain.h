// Plain causal attention, multi-head or grouped-query (arXiv 1706.03762, 2305.13245).
#pragma once

#include "kernels/attention/softmax_variant.h"

namespace headway::attention {

struct Plain : SoftmaxVariant {};

}  // namespace headway::attention
