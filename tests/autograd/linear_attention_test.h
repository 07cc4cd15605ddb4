// Fixture for linear attention: random inputs in float64 on the CPU.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "autograd/engine.h"
#include "autograd/ops/linear_attention.h"
#include "core/backend.h"
#include "tests/support/seed.h"

namespace headway {

/// What a test runs linear attention on.
struct LinearCase {
  int64_t B, T, H, F, V;
  bool decay = false, normalise = false, apart = false, state = false;
};

class LinearAttentionTest : public ::testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  const uint32_t seed = fresh_seed();
  Rng rng{seed};
  Context ctx{.stream = *stream, .rng = rng};

  Variable leaf(const Shape& shape, bool positive) {
    std::vector<double> values = random_values<double>(shape.numel(), seed, next_++);
    if (positive)
      for (double& value : values) value = std::abs(value) + 0.1;
    return Variable::leaf(Tensor::from<double>(values, shape, *stream));
  }
  /// With a normaliser, features are positive, so that no denominator is near zero.
  LinearInputs inputs(const LinearCase& c) {
    const Shape features{c.B, c.T, c.H, c.F};
    LinearInputs in{.q = leaf(features, c.normalise),
                    .k = leaf(features, c.normalise),
                    .v = leaf({c.B, c.T, c.H, c.V}, false)};
    if (c.apart) in.norm_q = leaf(features, true), in.norm_k = leaf(features, true);
    if (c.state) in.state = leaf({c.B, c.H, c.F, c.V + (c.normalise ? 1 : 0)}, c.normalise);
    if (c.decay) {
      std::vector<double> slopes;
      for (int64_t h = 0; h < c.H; ++h) slopes.push_back(0.05 + 0.3 * static_cast<double>(h));
      in.slope = Tensor::from<double>(slopes, {c.H}, *stream);
    }
    return in;
  }
  static std::vector<Variable> leaves(const LinearInputs& in) {
    std::vector<Variable> all{in.q, in.k, in.v};
    for (const Variable& input : {in.norm_q, in.norm_k, in.state})
      if (input.defined()) all.push_back(input);
    return all;
  }

 private:
  uint32_t next_ = 0;
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed)};
};

}  // namespace headway
