// Causal attention to the last `window` tokens, the token itself included (arXiv 2004.05150, 2310.06825).
#pragma once

#include "kernels/attention/softmax_variant.h"

namespace headway::attention {

struct SlidingWindow : WindowVariant {};

}  // namespace headway::attention
