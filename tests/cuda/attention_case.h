// Softmax attention of any variant on the GPU against the definition in double: inputs of every slot that the
// variant declares.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "autograd/ops/softmax_attention.h"
#include "tests/cuda/gpu_test.h"
#include "tests/kernels/attention/cases.h"

namespace headway::testing {

struct AttentionDims {
  int64_t B, T, Tk, H, K, Dh;
  int64_t Dv = Dh;
  int64_t P = 1;  // parameters of a head
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
                              values({d.B, d.Tk, d.K, d.Dv})};
    for_each_slot([&]<class Slot>(Slot) {
      if (!has(V::slots, Slot::info.bit)) return;
      const Shape shape = slot_shape<Slot>(dims_of(d));
      // Sinks and row scales that are seldom near zero, as those of models are.
      const bool is_factor = has(Slots::row_scale | Slots::sink, Slot::info.bit);
      inputs.push_back(Slot::info.number == SlotNumber::real ? vector(shape, is_factor ? 1 : 0)
                       : Slot::info.bit == Slots::key_end    ? key_ends(d)
                                                             : row_lists(d));
    });
    const auto attend = [&](Context& c, const std::vector<Variable>& x) {
      SoftmaxInputs in{.q = x[0], .k = x[1], .v = x[2]};
      size_t next = 3;
      for_each_slot(
          [&]<class Slot>(Slot, auto& input) {
            if (!has(V::slots, Slot::info.bit)) return;
            if constexpr (Slot::info.has_gradient)
              input = x[next++];
            else
              input = x[next++].value();
          },
          in);
      return softmax_attention<V>(c, in, config);
    };
    // Gradients of q and k are differences, of what a row gets from its keys and of what o says that it gets;
    // dropout makes the terms larger, and rows with one key left get nothing.
    check(inputs, attend, 0.5 / (1 - config.dropout));
  }

 private:
  static Dims dims_of(const AttentionDims& d) {
    Dims dims{d.B, d.T, d.H, d.K, d.Dh, d.Tk};
    dims.P = d.P;
    return dims;
  }
  Input row_lists(const AttentionDims& d) const {
    const std::vector<int32_t> rows = random_row_lists(dims_of(d), {seed_, 0, 1000, 0});
    return {.values = {rows.begin(), rows.end()}, .shape = {d.B, d.H, d.T}, .kind = Input::Kind::ids};
  }
  /// A third of the keys lives for ever.
  Input key_ends(const AttentionDims& d) {
    Input ends = ids({d.B, d.K, d.Tk}, 2 * d.Tk);
    for (size_t i = 0; i < ends.values.size(); i += 3) ends.values[i] = static_cast<double>(INT32_MAX);
    return ends;
  }
};

}  // namespace headway::testing
