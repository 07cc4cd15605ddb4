// Causal linear attention with a recurrent state (equations in kernels/ops/linear_attention.h).
//
//   const auto [o, state] = linear_attention(ctx, {.q = fq, .k = fk, .v = v}, {.normalise = true, .eps =
//   1e-6});
#pragma once

#include <array>

#include "autograd/apply.h"

namespace headway {

struct LinearAttention {
  static constexpr const char* name = "linear_attention";
  struct Config {
    bool normalise = false;
    double eps = 0;  // added to the sum of the weights
  };
  struct Saved {
    Tensor q, k, v, norm_q, norm_k, state, slope, log_decay, token_eps;
    Tensor o, denominator;
    Config config;
    auto tensors() const {
      return std::tie(q, k, v, norm_q, norm_k, state, slope, log_decay, token_eps, o, denominator);
    }
  };
  /// Outputs o [B,T,H,V] and the state after the last token.
  static std::array<Tensor, 2> forward(Context&, Saved*, const Config&, const Tensor& q, const Tensor& k,
                                       const Tensor& v, const Tensor& norm_q, const Tensor& norm_k,
                                       const Tensor& state, const Tensor& slope, const Tensor& log_decay,
                                       const Tensor& token_eps);
  static Grads<9> backward(Context&, const Saved&, const Grads<2>& dy, const Needs<9>&);
};

/// q, k and the optional features of the normaliser [B,T,H,F], v [B,T,H,V], slope [H] (absent: no decay; a
/// constant), log_decay [B,T,H] in place of slope and token_eps [B,T,H] in place of eps (both optional,
/// constants), state [B,H,F,V], or [B,H,F,V+1] with a normaliser, in the accumulator's dtype (absent: zero).
struct LinearInputs {
  Variable q, k, v;
  Variable norm_q = {}, norm_k = {}, state = {};
  Tensor slope = {}, log_decay = {}, token_eps = {};
};

/// {o [B,T,H,V], state after the last token}. With ctx.split, where a state and a decay by token are not
/// possible, collective: what this rank has of each sequence, and the states after its segments [2B,H,F,...].
std::array<Variable, 2> linear_attention(Context&, const LinearInputs&, const LinearAttention::Config&);

}  // namespace headway
