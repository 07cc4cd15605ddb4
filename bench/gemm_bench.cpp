// Prints the rate of OpenBLAS on every product of a training step, and the step's floor in tokens/s.
// The default is GPT-2 124M. Threads: OMP_NUM_THREADS.
#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>

#include "bench/gemm_floor.h"

int main(int argc, char** argv) {
  using namespace headway::bench;
  DecoderShape shape;
  int64_t batch = 4, tokens = 64;
  CLI::App app{"The rate of sgemm on the products of a training step, and the step's floor"};
  const auto count = CLI::Range(int64_t{1}, int64_t{1} << 24);
  app.add_option("--batch", batch, "sequences")->check(count)->capture_default_str();
  app.add_option("--tokens", tokens, "tokens of a sequence")->check(count)->capture_default_str();
  app.add_option("--layers", shape.num_layers, "decoder blocks")->check(count)->capture_default_str();
  app.add_option("--dim", shape.model_dim, "model width")->check(count)->capture_default_str();
  app.add_option("--query-width", shape.query_width, "num_heads head_dim")
      ->check(count)
      ->capture_default_str();
  app.add_option("--kv-width", shape.kv_width, "num_kv_heads head_dim")->check(count)->capture_default_str();
  app.add_option("--mlp-dim", shape.mlp_dim, "width of the MLP")->check(count)->capture_default_str();
  app.add_option("--mlp-inputs", shape.mlp_inputs, "1 gelu, 2 swiglu")
      ->check(CLI::Range(1, 2))
      ->capture_default_str();
  app.add_option("--vocab", shape.vocab_size, "vocabulary")->check(count)->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  fmt::print("B {}, T {}, {} threads\n", batch, tokens, omp_get_max_threads());
  fmt::print("{:<30} {:>6} {:>6} {:>6} {:>5} {:>9} {:>8}\n", "product", "m", "n", "k", "count", "ms",
             "GFLOP/s");
  const GemmFloor floor = measure_gemm_floor(shape, batch, tokens);
  for (const auto& measured : floor.products) {
    const GemmProduct& p = measured.product;
    fmt::print("{:<30} {:>6} {:>6} {:>6} {:>5} {:>9.3f} {:>8.1f}\n", p.name, p.m, p.n, p.k, p.count,
               1e3 * measured.seconds, measured.flop_per_second() / 1e9);
  }
  fmt::print("products: {:.1f} GFLOP a step at {:.1f} GFLOP/s; attention: {:.1f} GFLOP at the same rate\n",
             floor.gemm_flop / 1e9, floor.flop_per_second() / 1e9, floor.attention_flop / 1e9);
  fmt::print("floor: {:.0f} ms a step, {:.1f} tokens/s\n", 1e3 * floor.seconds(),
             static_cast<double>(batch * tokens) / floor.seconds());
  return 0;
}
