// Prints the rate of OpenBLAS on every product of a training step, and the step's floor in tokens/s.
// The default is GPT-2 124M. Threads: OMP_NUM_THREADS.
#include <fmt/format.h>
#include <omp.h>

#include "bench/gemm_floor.h"
#include "core/error.h"
#include "trainers/commands/command_line.h"

namespace headway::bench {
namespace {

void measure(const DecoderShape& shape, int64_t batch, int64_t tokens) {
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
}

}  // namespace
}  // namespace headway::bench

int main(int argc, char** argv) {
  headway::CommandLine command_line(
      "gemm_bench", "The rate of sgemm on the products of a training step, and the step's floor");
  headway::bench::DecoderShape shape;
  int64_t batch = 4, tokens = 64;
  headway::OptionList options = command_line.options();
  const auto add_count = [&](const char* name, int64_t& value, const char* help,
                             int64_t max = int64_t{1} << 24) {
    options.add(name, value, fmt::format("{}, {} if not given", help, value)).integer_from(1, max);
  };
  add_count("--batch", batch, "sequences");
  add_count("--tokens", tokens, "tokens of a sequence");
  add_count("--layers", shape.num_layers, "decoder blocks");
  add_count("--dim", shape.model_dim, "model width");
  add_count("--query-width", shape.query_width, "num_heads head_dim");
  add_count("--kv-width", shape.kv_width, "num_kv_heads head_dim");
  add_count("--mlp-dim", shape.mlp_dim, "width of the MLP");
  add_count("--mlp-inputs", shape.mlp_inputs, "1 gelu, 2 swiglu", 2);
  add_count("--vocab", shape.vocab_size, "vocabulary");
  try {
    if (command_line.read(argc, argv)) headway::bench::measure(shape, batch, tokens);
    return 0;
  } catch (const headway::Error& error) {
    fmt::print(stderr, "gemm_bench: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
