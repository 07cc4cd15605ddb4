// The output head and the loss in one: sum over tokens of cross_entropy(x W^T, target), times loss_scale.
//
// Logits are made for blocks of tokens. Where one block holds all of them, their gradient replaces them and
// is kept for backward; otherwise nothing is kept and backward makes each block again. So the logits never
// exist twice, and never beside their gradient.
#pragma once

#include "autograd/node.h"

namespace headway {

struct LinearCrossEntropy {
  static constexpr const char* name = "linear_cross_entropy";
  struct Config {
    double loss_scale = 1;   // 1 / tokens of the whole batch
    size_t block_bytes = 0;  // logits held at a time; 0: default_block_bytes of the device
  };
  struct Saved {
    Tensor x, weight, targets;
    Tensor dlogits;  // one block only
    Config config;
    auto tensors() const { return std::tie(x, weight, targets, dlogits); }
  };
  /// A GPU's memory has room for the logits of a micro-batch, and making them once saves a third of the
  /// head's work.
  static constexpr size_t default_block_bytes(Device::Kind kind) {
    return kind == Device::Kind::cuda ? size_t{8} << 30 : size_t{64} << 20;
  }
  /// x [..., D], weight [V,D], targets [...] i32 (-1: not counted) -> [1], fp32 (fp64 for fp64 x).
  static Tensor forward(Context&, Saved*, const Config&, const Tensor& x, const Tensor& weight,
                        const Tensor& targets);
  /// The same without the sum: [tokens], 0 where a target is -1.
  static Tensor token_losses(Context&, const Tensor& x, const Tensor& weight, const Tensor& targets);
  static Grads<3> backward(Context&, const Saved&, const Tensor& dy, const Needs<3>&);
};

}  // namespace headway
