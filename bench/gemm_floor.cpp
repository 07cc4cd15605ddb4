#include "bench/gemm_floor.h"

#include <cblas.h>

#include <algorithm>
#include <chrono>

namespace headway::bench {
namespace {

constexpr double kMeasuredSeconds = 0.25;
constexpr size_t kFewestRuns = 5;

double seconds_of(const GemmProduct& p) {
  const std::vector<float> a(static_cast<size_t>(p.m * p.k), 0.5f), b(static_cast<size_t>(p.k * p.n), 0.25f);
  std::vector<float> c(static_cast<size_t>(p.m * p.n));
  const auto run = [&] {
    const auto start = std::chrono::steady_clock::now();
    cblas_sgemm(CblasRowMajor, p.transpose_a ? CblasTrans : CblasNoTrans,
                p.transpose_b ? CblasTrans : CblasNoTrans, static_cast<int>(p.m), static_cast<int>(p.n),
                static_cast<int>(p.k), 1.0f, a.data(), static_cast<int>(p.transpose_a ? p.m : p.k), b.data(),
                static_cast<int>(p.transpose_b ? p.k : p.n), 0.0f, c.data(), static_cast<int>(p.n));
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  run();
  std::vector<double> seconds;
  for (double total = 0; total < kMeasuredSeconds || seconds.size() < kFewestRuns; total += seconds.back())
    seconds.push_back(run());
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

}  // namespace

std::vector<GemmProduct> products_of_step(const DecoderShape& shape, int64_t batch, int64_t tokens) {
  const int64_t R = batch * tokens, D = shape.model_dim;
  struct Layer {
    const char* name;
    int64_t outputs, inputs, count;
  };
  const Layer layers[] = {
      {"attention/query", shape.query_width, D, shape.num_layers},
      {"attention/key, value", shape.kv_width, D, 2 * shape.num_layers},
      {"attention/output", D, shape.query_width, shape.num_layers},
      {"mlp/in", shape.mlp_dim, D, shape.mlp_inputs * shape.num_layers},
      {"mlp/down", D, shape.mlp_dim, shape.num_layers},
      {"head", shape.vocab_size, D, 1},
  };
  std::vector<GemmProduct> products;
  for (const auto& [name, N, K, count] : layers) {
    products.push_back({std::string(name) + " forward", R, N, K, false, true, count});
    products.push_back({std::string(name) + " dinput", R, K, N, false, false, count});
    products.push_back({std::string(name) + " dweight", N, K, R, true, false, count});
  }
  return products;
}

GemmFloor measure_gemm_floor(const DecoderShape& shape, int64_t batch, int64_t tokens) {
  GemmFloor floor;
  for (GemmProduct& product : products_of_step(shape, batch, tokens)) {
    // Layers of one shape share a measurement.
    const auto same = [&](const MeasuredProduct& other) {
      const GemmProduct& p = other.product;
      return p.m == product.m && p.n == product.n && p.k == product.k &&
             p.transpose_a == product.transpose_a && p.transpose_b == product.transpose_b;
    };
    const auto known = std::find_if(floor.products.begin(), floor.products.end(), same);
    const double seconds = known != floor.products.end() ? known->seconds : seconds_of(product);
    const auto count = static_cast<double>(product.count);
    floor.gemm_flop += count * product.flop();
    floor.gemm_seconds += count * seconds;
    floor.products.push_back({std::move(product), seconds});
  }
  const auto T = static_cast<double>(tokens);
  const double pairs = static_cast<double>(batch * shape.num_layers) * T * (T + 1) / 2;
  floor.attention_flop = 7 * 2 * pairs * static_cast<double>(shape.query_width);
  return floor;
}

}  // namespace headway::bench
