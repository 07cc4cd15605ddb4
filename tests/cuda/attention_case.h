// Softmax attention of any variant on the GPU against the definition in double: inputs of every slot that the
// variant declares.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "autograd/ops/softmax_attention.h"
#include "tests/cuda/gpu_test.h"

namespace headway::testing {

struct AttentionDims {
  int64_t B, T, Tk, H, K, Dh;
};

class GpuAttentionTest : public GpuTest {
 protected:
  /// In fp32 and bf16, as GpuTest::check. The queries are the last of the keys' positions.
  template <class V>
  void check_attention(const AttentionDims& d, typename SoftmaxAttention<V>::Config config) {
    SCOPED_TRACE("T " + std::to_string(d.T) + ", Tk " + std::to_string(d.Tk) + ", Dh " +
                 std::to_string(d.Dh));
    config.query_offset = d.Tk - d.T;
    // Scores of about unit size, whatever the width: a softmax of one key has no gradient.
    const double size = std::pow(static_cast<double>(d.Dh), -0.25) * 2;
    std::vector<Input> inputs{values({d.B, d.T, d.H, d.Dh}, size), values({d.B, d.Tk, d.K, d.Dh}, size),
                              values({d.B, d.Tk, d.K, d.Dh})};
    const auto add = [&](Slots slot, const Input& input) {
      if (!has(V::slots, slot)) return size_t{0};
      inputs.push_back(input);
      return inputs.size() - 1;
    };
    const size_t row_scale = add(Slots::row_scale, vector({d.B, d.H, d.T}, 1)),
                 row_bias = add(Slots::row_bias, vector({d.B, d.H, d.T})),
                 key_bias = add(Slots::key_bias, vector({d.B, d.K, d.Tk})),
                 sink = add(Slots::sink, vector({d.H}, 1)), key_end = add(Slots::key_end, key_ends(d));
    const auto attend = [&](Context& c, const std::vector<Variable>& x) {
      const auto given = [&](size_t index) { return index == 0 ? Variable() : x[index]; };
      return softmax_attention<V>(c,
                                  {.q = x[0],
                                   .k = x[1],
                                   .v = x[2],
                                   .row_scale = given(row_scale),
                                   .row_bias = given(row_bias),
                                   .key_bias = given(key_bias),
                                   .sink = given(sink),
                                   .key_end = given(key_end).value()},
                                  config);
    };
    // Gradients of q and k are differences, of what a row gets from its keys and of what o says that it gets.
    constexpr double kTerm = 0.5;
    check(inputs, attend, kTerm);
  }

 private:
  /// A third of the keys lives for ever.
  Input key_ends(const AttentionDims& d) {
    Input ends = ids({d.B, d.K, d.Tk}, 2 * d.Tk);
    for (size_t i = 0; i < ends.values.size(); i += 3) ends.values[i] = static_cast<double>(INT32_MAX);
    return ends;
  }
};

}  // namespace headway::testing
