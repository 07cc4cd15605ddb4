// The floor of a training step on the CPU: the time its matrix products alone take at the rate OpenBLAS
// reaches on products of exactly these shapes, measured in the same run.
//
// A linear layer W [N,K] over R = B T rows does three products: forward Y [R,N] = X W^T, input gradient
// dX [R,K] = dY W, weight gradient dW [N,K] = dY^T X. Each does 2 R N K FLOP. The products of attention
// itself (scores and values) are small and batched; the floor takes them at the mean rate of the others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace headway::bench {

/// The linear layers of a decoder. GPT-2 124M with its unpadded vocabulary by default.
struct DecoderShape {
  int64_t num_layers = 12;
  int64_t model_dim = 768;
  int64_t query_width = 768;  // num_heads head_dim
  int64_t kv_width = 768;     // num_kv_heads head_dim
  int64_t mlp_dim = 3072;
  int64_t mlp_inputs = 1;  // projections into the MLP: 1 gelu, 2 swiglu
  int64_t vocab_size = 50257;
};

/// C [m,n] = op(A) op(B) over k, done `count` times a step. Row-major; an operand is stored transposed where
/// the flag says so.
struct GemmProduct {
  std::string name;  // "mlp/up forward"
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  int64_t count;

  double flop() const { return 2 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k); }
};

struct MeasuredProduct {
  GemmProduct product;
  double seconds;  // median of one product
  double flop_per_second() const { return product.flop() / seconds; }
};

struct GemmFloor {
  std::vector<MeasuredProduct> products;
  double gemm_flop = 0;     // of a step, products above
  double gemm_seconds = 0;  // of a step, products above
  double attention_flop = 0;
  double flop_per_second() const { return gemm_flop / gemm_seconds; }
  /// Of a whole step, attention included.
  double seconds() const { return gemm_seconds + attention_flop / flop_per_second(); }
};

/// Every product of the linear layers in one training step over batch x tokens, equal shapes counted.
std::vector<GemmProduct> products_of_step(const DecoderShape&, int64_t batch, int64_t tokens);

/// Runs each product at least five times and for a quarter of a second, with the threads OpenMP would use,
/// and keeps the median. Causal attention: two products per visible pair forward, five backward.
GemmFloor measure_gemm_floor(const DecoderShape&, int64_t batch, int64_t tokens);

}  // namespace headway::bench
