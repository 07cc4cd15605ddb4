// Linear attention in one pass over the sequence, on Hopper in bf16: the output is one sweep and the
// gradients are three (see sweep.h). It takes any decay per head and up to 256 features and values, and with
// a normaliser up to 128 of each; the kernels of linear_attention_tensor.cuh take other GPUs and decays per
// token.
#pragma once

#include <string>

#include "kernels/ops/linear_attention.h"

namespace headway::cuda::linear {

/// Why one pass does not take a call; empty where it does.
std::string forward_refusal(const LinearAttentionForward<bf16>& args, const Stream& stream);
std::string backward_refusal(const LinearAttentionBackward<bf16>& args, const Stream& stream);

void forward(const LinearAttentionForward<bf16>& args, Stream& stream);
void backward(const LinearAttentionBackward<bf16>& args, Stream& stream);

}  // namespace headway::cuda::linear
