// Linear attention of one token, as decoding asks for: the state is read, updated and written in one pass.
#pragma once

#include "kernels/ops/linear_attention.h"

namespace headway::cuda::linear {

/// Any widths, decays and normaliser; T float or bf16.
template <class T>
void one_token(const LinearAttentionForward<T>& args, Stream& stream);

}  // namespace headway::cuda::linear
