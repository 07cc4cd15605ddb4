// The same operation on the CPU in double (the oracle) and on the GPU in fp32 and bf16.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "autograd/engine.h"
#include "core/backend.h"
#include "core/context.h"
#include "tests/cuda/guarded_memory.h"
#include "tests/support/from_doubles.h"
#include "tests/support/seed.h"

namespace headway::testing {

/// One input of an operation, as values that every dtype under test can hold.
struct Input {
  enum class Kind : uint8_t {
    value,   // an activation or matrix: in the dtype under test
    vector,  // norm weights, biases, slots: in the dtype's accumulator
    ids      // i32, without a gradient
  };
  std::vector<double> values;
  Shape shape;
  Kind kind = Kind::value;
};

/// Row lists of so many heads: of about half of the rows, of all, of none, and of one in 16, by turns.
inline std::vector<int32_t> row_lists_of_any_share(int64_t heads, int64_t length, uint32_t seed) {
  constexpr uint64_t kShares[] = {8, 16, 0, 1};  // of 16
  const RandomKey key{.seed = seed, .step = 0, .stream = 998, .first_element = 0};
  std::vector<int32_t> rows;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t t = 0; t < length; ++t)
      if (random_bits(key, static_cast<uint64_t>(head * length + t)) % 16 < kShares[head % 4])
        rows.push_back(static_cast<int32_t>(t));
    rows.resize(static_cast<size_t>((head + 1) * length), -1);
  }
  return rows;
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (num_cuda_devices() > 0) return;
    const char* required = std::getenv("HEADWAY_REQUIRE_GPU");
    if (required && std::string(required) == "1")
      FAIL() << "no GPU is usable here, and HEADWAY_REQUIRE_GPU=1";
    GTEST_SKIP() << "no GPU is usable here";
  }

  /// Normal values that bf16 holds exactly, so that all dtypes start from the same numbers.
  Input values(const Shape& shape, double scale = 1) { return random(shape, scale, Input::Kind::value, 0); }
  Input vector(const Shape& shape, double offset = 0) {
    return random(shape, 0.5, Input::Kind::vector, offset);
  }
  Input ids(const Shape& shape, int64_t limit, bool with_gaps = false) {
    Input input{.values = std::vector<double>(static_cast<size_t>(shape.numel())),
                .shape = shape,
                .kind = Input::Kind::ids};
    const RandomKey key{seed_, 0, next_++, 0};
    for (size_t i = 0; i < input.values.size(); ++i)
      input.values[i] = with_gaps && i % 5 == 3
                            ? -1
                            : static_cast<double>(random_bits(key, i) % static_cast<uint64_t>(limit));
    return input;
  }

  /// For B x H heads of T rows.
  Input row_lists(const Shape& shape) const {
    const std::vector<int32_t> rows = row_lists_of_any_share(shape[0] * shape[1], shape[2], seed_);
    return {.values = {rows.begin(), rows.end()}, .shape = shape, .kind = Input::Kind::ids};
  }

  using Function = std::function<Variable(Context&, const std::vector<Variable>&)>;
  /// Outputs and gradients on the GPU against the oracle, twice with equal bits, from memory that holds NaN
  /// between margins that nothing may touch.
  /// term: size of what is summed up. Where everything cancels (a window of one key has no gradient in q),
  /// errors are measured by it.
  void check(const std::vector<Input>& inputs, const Function& function, double term = 0.1) {
    check_dtype(DType::f32, 2e-5, inputs, function, term);
    check_dtype(DType::bf16, 8e-3, inputs, function, term);  // two roundings of one number
  }
  /// limit: relative root mean square of the error of each tensor.
  void check_dtype(DType dtype, double limit, const std::vector<Input>& inputs, const Function& function,
                   double term = 0.1) {
    SCOPED_TRACE(to_string(dtype));
    const auto exact = run(Device{}, DType::f64, inputs, function);
    const Device gpu{Device::Kind::cuda, 0};
    const auto first = [&] {
      const GuardedMemory guarded(gpu);
      return run(gpu, dtype, inputs, function);
    }();
    const auto second = run(gpu, dtype, inputs, function);
    ASSERT_EQ(first.size(), exact.size());
    for (size_t i = 0; i < exact.size(); ++i) {
      ASSERT_EQ(first[i].size(), exact[i].size());
      double error = 0, size = 0;
      for (size_t j = 0; j < exact[i].size(); ++j) {
        error += (first[i][j] - exact[i][j]) * (first[i][j] - exact[i][j]);
        size += exact[i][j] * exact[i][j];
      }
      const auto count = static_cast<double>(exact[i].size());
      const double relative = std::sqrt(error / std::max(size, count * term * term));
      // Gradients of vectors sum up many rows, which may cancel.
      const bool is_vector = i > 0 && inputs[i - 1].kind == Input::Kind::vector;
      EXPECT_TRUE(error == 0 || relative <= (is_vector ? 20 * limit : limit))
          << (i == 0 ? "the output" : "gradient of input " + std::to_string(i - 1)) << ": relative error "
          << relative;
      EXPECT_EQ(first[i], second[i]) << (i == 0 ? "the output"
                                                : "gradient of input " + std::to_string(i - 1));
    }
  }

  const uint32_t seed_ = fresh_seed();

 private:
  Input random(const Shape& shape, double scale, Input::Kind kind, double offset) {
    Input input{.values = {}, .shape = shape, .kind = kind};
    for (const float x : random_values<float>(shape.numel(), seed_, next_++, scale))
      input.values.push_back(static_cast<double>(static_cast<float>(bf16(x + static_cast<float>(offset)))));
    return input;
  }

  static Tensor tensor(const Input& input, DType dtype, Stream& stream) {
    const DType dtype_of_kind = input.kind == Input::Kind::vector ? accumulator_of(dtype) : dtype;
    if (input.kind != Input::Kind::ids) return from_doubles(input.values, input.shape, dtype_of_kind, stream);
    return Tensor::from<int32_t>(std::vector<int32_t>(input.values.begin(), input.values.end()), input.shape,
                                 stream);
  }

  /// The output, then the gradients of the inputs, empty where the function does not use one.
  std::vector<std::vector<double>> run(Device device, DType dtype, const std::vector<Input>& inputs,
                                       const Function& function) const {
    const auto stream = backend(device).make_stream();
    Rng rng(3);
    rng.begin(1, 0);
    Context ctx{.stream = *stream, .rng = rng, .training = true, .recording = true};
    std::vector<Variable> variables;
    for (const Input& input : inputs) {
      const Tensor value = tensor(input, dtype, *stream);
      variables.push_back(input.kind == Input::Kind::ids ? Variable(value) : Variable::leaf(value));
    }
    const Variable y = function(ctx, variables);
    Input dy{.values = {}, .shape = y.shape(), .kind = Input::Kind::value};
    for (const float x : random_values<float>(y.shape().numel(), seed_, 999, 1.0))
      dy.values.push_back(static_cast<double>(static_cast<float>(bf16(x))));
    std::vector<std::vector<double>> results{to_doubles(y.value(), *stream)};
    const Tensor seed = tensor(dy, y.value().dtype(), *stream);
    backward(ctx, std::span(&y, 1), std::span(&seed, 1), MicroStep::last);
    for (const Variable& variable : variables)
      results.push_back(variable.requires_grad() && variable.grad() ? to_doubles(variable.grad(), *stream)
                                                                    : std::vector<double>());
    return results;
  }

  uint32_t next_ = 0;
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed_)};
};

}  // namespace headway::testing
