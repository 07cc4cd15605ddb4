// The distance of a linear attention's weights from softmax attention's as a loss (equations in
// kernels/ops/attention_transfer.h).
#pragma once

#include "autograd/node.h"
#include "kernels/ops/attention_transfer.h"

namespace headway {

struct AttentionTransfer {
  static constexpr const char* name = "attention_transfer";
  struct Config {
    double scale = 1;  // of the teacher's scores
  };
  struct Saved {
    Tensor q, k, fq, fk;
    Config config;
    auto tensors() const { return std::tie(q, k, fq, fk); }
  };
  /// q, k [B,T,H,Dh] of the teacher, which gets no gradient; features fq, fk [B,T,H,F] -> [1], nats per row,
  /// in the accumulator's dtype.
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& q, const Tensor& k, const Tensor& fq,
                        const Tensor& fk);
  static Grads<4> backward(Context&, const Saved&, const Tensor& dloss, const Needs<4>&);
};

}  // namespace headway
