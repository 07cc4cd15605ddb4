// Fixture for kernels: random float inputs, guarded outputs, and the comparison with a plain loop that is
// written once and run in double (the truth) and in float (the yardstick).
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/tensor.h"
#include "kernels/op.h"
#include "tests/support/guarded.h"
#include "tests/support/seed.h"
#include "tests/support/tolerance.h"

namespace headway {

using Output = testing::Guarded<float>;
/// One vector per output of a kernel.
template <class S>
using Values = std::vector<std::vector<S>>;

class KernelTest : public ::testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  const uint32_t seed = fresh_seed();

  std::vector<float> random(int64_t count, double scale = 1) {
    return random_values<float>(count, seed, next_++, scale);
  }
  std::vector<int32_t> random_ids(int64_t count, int64_t limit) {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    const RandomKey key{seed, 0, next_++, 0};
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<int32_t>(random_bits(key, i) % static_cast<uint64_t>(limit));
    return ids;
  }
  template <class T>
  Tensor tensor(const std::vector<T>& values, const Shape& shape) {
    return Tensor::from<T>(values, shape, *stream);
  }
  /// reference(S{}) returns the values that the outputs must have, computed in S; terms as in within().
  template <class Reference>
  void expect_close(const std::vector<const Output*>& outputs, const Reference& reference, double terms = 0) {
    const Values<float> yardstick = reference(float{});
    const Values<double> exact = reference(double{});
    ASSERT_EQ(outputs.size(), exact.size());
    for (size_t i = 0; i < outputs.size(); ++i) {
      const std::string name = "output " + std::to_string(i);
      const std::vector<float> actual = outputs[i]->tensor().to_vector<float>(*stream);
      ASSERT_EQ(actual.size(), exact[i].size()) << name;
      const auto error = testing::error_of<float, double>(actual, exact[i]);
      const auto allowed = testing::error_of<float, double>(yardstick[i], exact[i]);
      EXPECT_TRUE(testing::within<float>(error, allowed, terms))
          << name << ": largest error " << error.largest << ", rms " << error.rms << "; plain float code has "
          << allowed.largest << ", rms " << allowed.rms;
      outputs[i]->expect_untouched_margins(name.c_str());
    }
  }

 private:
  uint32_t next_ = 0;
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed)};
};

/// run() returns tensors it has just written; with 1, 2 and 3 threads their bytes must be equal.
template <class Run>
void expect_equal_for_any_number_of_threads(const Run& run) {
  const int before = omp_get_max_threads();
  std::vector<Tensor> first;
  for (const int threads : {1, 2, 3}) {
    omp_set_num_threads(threads);
    const std::vector<Tensor> outputs = run();
    if (first.empty()) first = outputs;
    for (size_t i = 0; i < outputs.size(); ++i)
      EXPECT_EQ(std::memcmp(first[i].raw(), outputs[i].raw(), first[i].bytes()), 0)
          << "output " << i << " with " << threads << " threads";
  }
  omp_set_num_threads(before);
}

}  // namespace headway
