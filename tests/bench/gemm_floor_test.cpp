// The products the floor is made of add up to what the formulas of a decoder say.
#include "bench/gemm_floor.h"

#include <gtest/gtest.h>

namespace headway::bench {
namespace {

double flop_of(const std::vector<GemmProduct>& products) {
  double flop = 0;
  for (const auto& product : products) flop += static_cast<double>(product.count) * product.flop();
  return flop;
}

TEST(GemmFloor, ProductsOfGpt2DoSixFlopPerWeightAndToken) {
  const double weights = 12.0 * 12 * 768 * 768 + 50257.0 * 768;
  EXPECT_EQ(flop_of(products_of_step({}, 4, 64)), 6 * weights * 4 * 64);
}

TEST(GemmFloor, GroupedKeysAndSwigluAreCounted) {
  const DecoderShape llama{.num_layers = 3,
                           .model_dim = 48,
                           .query_width = 64,
                           .kv_width = 16,
                           .mlp_dim = 128,
                           .mlp_inputs = 2,
                           .vocab_size = 320};
  const double weights = 3.0 * (2 * 48 * 64 + 2 * 48 * 16 + 3 * 48 * 128) + 320 * 48;
  EXPECT_EQ(flop_of(products_of_step(llama, 2, 5)), 6 * weights * 2 * 5);
}

TEST(GemmFloor, MeasuringGivesEveryProductARate) {
  const DecoderShape tiny{.num_layers = 1,
                          .model_dim = 8,
                          .query_width = 8,
                          .kv_width = 8,
                          .mlp_dim = 16,
                          .mlp_inputs = 1,
                          .vocab_size = 32};
  const GemmFloor floor = measure_gemm_floor(tiny, 1, 4);
  EXPECT_EQ(floor.products.size(), products_of_step(tiny, 1, 4).size());
  for (const auto& measured : floor.products) EXPECT_GT(measured.seconds, 0) << measured.product.name;
  EXPECT_EQ(floor.attention_flop, 7 * 2 * 8 * (4 * 5 / 2));
  EXPECT_GT(floor.seconds(), floor.gemm_seconds);
}

}  // namespace
}  // namespace headway::bench
