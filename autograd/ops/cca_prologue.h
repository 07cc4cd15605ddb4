// Convolutions, means and norms of compressed convolutional attention (equations in
// kernels/ops/cca_prologue.h).
#pragma once

#include "autograd/node.h"
#include "kernels/ops/cca_prologue.h"

namespace headway {

struct CcaPrologue {
  static constexpr const char* name = "cca_prologue";
  struct Config {
    CcaTemperature temperature = CcaTemperature::exponential;
    bool qk_mean = true;
    double eps = 1e-12;
  };
  struct Saved {
    Tensor query, key, conv_a, conv_a_bias, conv_b, conv_b_bias, temperature, query_history, key_history;
    Config config;
    auto tensors() const {
      return std::tie(query, key, conv_a, conv_a_bias, conv_b, conv_b_bias, temperature, query_history,
                      key_history);
    }
  };
  /// query [B,T,H,Dh], key [B,T,K,Dh], parameters as in the kernel, and the K0+K1-2 rows before the first
  /// (undefined: zeros; constants) -> q [B,T,H,Dh], k [B,T,K,Dh]
  static std::array<Tensor, 2> forward(Context&, Saved*, const Config&, const Tensor& query,
                                       const Tensor& key, const Tensor& conv_a, const Tensor& conv_a_bias,
                                       const Tensor& conv_b, const Tensor& conv_b_bias,
                                       const Tensor& temperature, const Tensor& query_history,
                                       const Tensor& key_history);
  static Grads<9> backward(Context&, const Saved&, const Grads<2>& dy, const Needs<9>&);
};

}  // namespace headway
