#pragma once

#include "core/tensor.h"

namespace headway {

/// to[i] = from[i] rounded to bf16; to bf16, from fp32, both contiguous and of one shape.
void round_to(const Tensor& to, const Tensor& from, Stream&);

}  // namespace headway
