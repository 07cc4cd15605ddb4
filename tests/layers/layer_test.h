// Fixture for attention layers: built from their recipe keys, run in float64 or float32 on the CPU.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/engine.h"
#include "autograd/gradcheck.h"
#include "core/backend.h"
#include "core/max_or_nan.h"
#include "layers/attention/attention_layer.h"
#include "tests/layers/json_fields.h"
#include "tests/support/from_doubles.h"
#include "tests/support/seed.h"
#include "tests/support/tolerance.h"

namespace headway::testing {

class LayerTest : public ::testing::Test {
 protected:
  std::unique_ptr<Stream> stream = cpu_backend().make_stream();
  uint32_t seed = fresh_seed();
  Rng rng{seed};
  Context ctx{.stream = *stream, .rng = rng};
  RopeTables rope_tables;

  std::unique_ptr<AttentionConfig> make_config(std::string_view kind, const nlohmann::json& keys) {
    auto config = find_attention(kind).make_config();
    JsonFields fields(keys);
    config->describe(fields);
    fields.check_all_used();
    return config;
  }
  /// Not materialised.
  std::unique_ptr<AttentionLayer> declare(std::string_view kind, int64_t model_dim,
                                          const nlohmann::json& keys) {
    const ModelShape shape{
        .model_dim = model_dim, .num_layers = 2, .layer_index = 0, .init_std = 0.5, .output_init_std = 0.5};
    return find_attention(kind).make(*make_config(kind, keys), shape);
  }
  std::unique_ptr<AttentionLayer> make(std::string_view kind, int64_t model_dim, const nlohmann::json& keys,
                                       DType dtype = DType::f64) {
    auto layer = declare(kind, model_dim, keys);
    layer->materialize(dtype, seed, *stream);
    return layer;
  }
  static Parameter& parameter(AttentionLayer& layer, const std::string& path) {
    Parameter* found = nullptr;
    layer.visit("", [&](const std::string& name, Parameter& p) {
      if (name == path) found = &p;
    });
    if (!found) throw std::runtime_error("the layer has no parameter " + path);
    return *found;
  }
  static void set(AttentionLayer& layer, const std::string& path, const std::vector<double>& values) {
    const Tensor& value = parameter(layer, path).value;
    ASSERT_EQ(value.numel(), static_cast<int64_t>(values.size())) << path;
    dispatch<double, float>(value.dtype(), "set", [&]<class T>() {
      std::transform(values.begin(), values.end(), value.data<T>(),
                     [](double x) { return static_cast<T>(x); });
    });
  }
  static void fill(AttentionLayer& layer, const std::string& path, double value) {
    set(layer, path, std::vector<double>(static_cast<size_t>(parameter(layer, path).value.numel()), value));
  }
  void set_random(AttentionLayer& layer, const std::string& path, double scale = 1, double center = 0) {
    std::vector<double> values =
        random_values<double>(parameter(layer, path).value.numel(), seed, next_++, scale);
    for (double& value : values) value += center;
    set(layer, path, values);
  }
  /// Adds normal numbers to every parameter.
  void perturb(AttentionLayer& layer, double scale = 0.3) {
    layer.visit("", [&](const std::string&, Parameter& p) {
      const auto noise = random_values<double>(p.value.numel(), seed, next_++, scale);
      for (size_t i = 0; i < noise.size(); ++i) p.value.data<double>()[i] += noise[i];
    });
  }
  static int64_t num_parameters(AttentionLayer& layer) {
    int64_t total = 0;
    layer.visit("", [&](const std::string&, Parameter& p) { total += p.shape.numel(); });
    return total;
  }
  /// Gives `to` the parameters of `from`, which it must have too.
  void copy_parameters(AttentionLayer& from, AttentionLayer& to) {
    from.visit("", [&](const std::string& path, Parameter& p) {
      parameter(to, path).value.copy_from(p.value, *stream);
    });
  }
  /// The output projection becomes the identity: the output is the heads side by side.
  static void expose_heads(AttentionLayer& layer) {
    const int64_t width = parameter(layer, "output/weight").value.size(0);
    std::vector<double> identity(static_cast<size_t>(width * width), 0.0);
    for (int64_t i = 0; i < width; ++i) identity[static_cast<size_t>(i * (width + 1))] = 1;
    set(layer, "output/weight", identity);
  }
  Tensor random(const Shape& shape, double scale = 1, DType dtype = DType::f64) {
    return from_doubles(random_values<double>(shape.numel(), seed, next_++, scale), shape, dtype, *stream);
  }

  Variable run(AttentionLayer& layer, const Variable& x, AttentionState* state = nullptr,
               int64_t offset = 0) {
    return layer.forward(ctx, x, {.offset = offset, .count = x.size(1), .tables = &rope_tables}, state);
  }
  Tensor run(AttentionLayer& layer, const Tensor& x) { return run(layer, Variable(x)).value(); }

  /// Of "x" and of every parameter, for the output's gradient dy.
  std::map<std::string, Tensor> gradients(AttentionLayer& layer, const Tensor& x, const Tensor& dy) {
    layer.visit("", [](const std::string&, Parameter& p) {
      if (p.gradient) p.gradient->written = false;
    });
    ctx.recording = true;
    const Variable leaf = Variable::leaf(x), y = run(layer, leaf);
    backward(ctx, std::span(&y, 1), std::span(&dy, 1), MicroStep::last);
    ctx.recording = false;
    std::map<std::string, Tensor> all{{"x", leaf.grad()}};
    layer.visit("",
                [&](const std::string& path, Parameter& p) { all[path] = p.gradient->grad.clone(*stream); });
    return all;
  }
  /// x [B,T,I], weight [O,I] -> x weight^T [B,T,O], in plain loops.
  static Tensor product(const Tensor& x, const Tensor& weight) {
    const int64_t rows = x.size(0) * x.size(1), O = weight.size(0), I = weight.size(1);
    const Tensor y = Tensor::empty({x.size(0), x.size(1), O}, DType::f64, Device{});
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t o = 0; o < O; ++o) {
        double sum = 0;
        for (int64_t i = 0; i < I; ++i) sum += x.data<double>()[r * I + i] * weight.data<double>()[o * I + i];
        y.data<double>()[r * O + o] = sum;
      }
    return y;
  }
  /// The gradient of that weight, [O,I], for the gradient dy [B,T,O] of the product.
  static Tensor weight_gradient(const Tensor& dy, const Tensor& x) {
    const int64_t rows = x.size(0) * x.size(1), O = dy.size(2), I = x.size(2);
    const Tensor gradient = Tensor::empty({O, I}, DType::f64, Device{});
    for (int64_t o = 0; o < O; ++o)
      for (int64_t i = 0; i < I; ++i) {
        double sum = 0;
        for (int64_t r = 0; r < rows; ++r) sum += dy.data<double>()[r * O + o] * x.data<double>()[r * I + i];
        gradient.data<double>()[o * I + i] = sum;
      }
    return gradient;
  }

  static void expect_equal_bits(const Tensor& a, const Tensor& b) {
    ASSERT_EQ(a.shape(), b.shape());
    ASSERT_EQ(a.dtype(), b.dtype());
    ASSERT_TRUE(a.is_contiguous() && b.is_contiguous());
    EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.bytes()), 0);
  }
  /// Of two kernels a compiler may fuse multiplications with additions in one and not in the other, so that
  /// results which are the same on paper differ in their last bits on some processors.
  void expect_equal_but_for_rounding(const Tensor& a, const Tensor& b) {
    ASSERT_EQ(a.shape(), b.shape());
    ASSERT_EQ(a.dtype(), b.dtype());
    constexpr double kTerms = 64;
    const double unit = a.dtype() == DType::f64 ? std::numeric_limits<double>::epsilon()
                                                : std::numeric_limits<float>::epsilon();
    const std::vector<double> values = to_doubles(a, *stream), others = to_doubles(b, *stream);
    const Error error = error_of<double, double>(values, others);
    EXPECT_LE(error.largest, kTerms * unit * error.magnitude);
  }
  void expect_zero(const Tensor& x) {
    for (const double value : to_doubles(x, *stream)) ASSERT_EQ(value, 0);
  }
  /// values == factor * of, exactly.
  void expect_multiple(const Tensor& values, double factor, const Tensor& of) {
    std::vector<double> expected = to_doubles(of, *stream);
    for (double& value : expected) value *= factor;
    EXPECT_EQ(to_doubles(values, *stream), expected);
  }
  void expect_near(const Tensor& actual, const Tensor& expected, double limit) {
    ASSERT_EQ(actual.shape(), expected.shape());
    ASSERT_TRUE(actual.is_contiguous() && expected.is_contiguous());
    double largest = 0, magnitude = 0;
    for (int64_t i = 0; i < actual.numel(); ++i) {
      const double e = expected.data<double>()[i];
      largest = max_or_nan(largest, std::abs(actual.data<double>()[i] - e));
      magnitude = std::max(magnitude, std::abs(e));
    }
    EXPECT_TRUE(largest <= limit * magnitude) << "largest difference " << largest << " of " << magnitude;
  }

  /// Outputs before a changed token keep their bits; the token's own output changes.
  void expect_causal(AttentionLayer& layer, int64_t model_dim, int64_t length) {
    const Tensor x = random({2, length, model_dim});
    const Tensor before = run(layer, x);
    for (const int64_t t : {int64_t{0}, length / 2, length - 1}) {
      const Tensor changed = x.clone(*stream);
      for (int64_t d = 0; d < model_dim; ++d) changed.data<double>()[t * model_dim + d] += 1;
      const Tensor after = run(layer, changed);
      const size_t row = static_cast<size_t>(model_dim) * sizeof(double);
      EXPECT_EQ(std::memcmp(before.raw(), after.raw(), static_cast<size_t>(t) * row), 0) << "token " << t;
      EXPECT_NE(std::memcmp(before.data<double>() + t * model_dim, after.data<double>() + t * model_dim, row),
                0);
      const size_t other = static_cast<size_t>(length) * row;  // the second sequence
      EXPECT_EQ(std::memcmp(before.data<double>() + length * model_dim,
                            after.data<double>() + length * model_dim, other),
                0);
    }
  }
  /// Segments of several lengths through a state give what one pass gives.
  void expect_decoding_equals_one_pass(AttentionLayer& layer, int64_t model_dim) {
    const std::vector<int64_t> segments{3, 1, 1, 5, 1, 2, 1};
    int64_t length = 0;
    for (const int64_t count : segments) length += count;
    const Tensor x = random({1, length, model_dim});
    const Tensor expected = run(layer, x);
    const auto state = layer.make_state(1, length, DType::f64, Device{});
    int64_t begin = 0;
    for (const int64_t count : segments) {
      const Variable y = run(layer, Variable(x.slice(1, begin, begin + count)), state.get(), begin);
      SCOPED_TRACE("from token " + std::to_string(begin));
      expect_near(y.value(), expected.slice(1, begin, begin + count), 1e-12);
      begin += count;
    }
  }
  void expect_gradients(AttentionLayer& layer, const Tensor& x, double limit) {
    std::vector<Variable> leaves{Variable::leaf(x)};
    layer.visit("", [&](const std::string&, Parameter& p) { leaves.push_back(p.variable()); });
    const GradCheck check =
        gradcheck(ctx,
                  [&](Context& c) {
                    return std::vector{layer.forward(
                        c, leaves[0], {.offset = 0, .count = x.size(1), .tables = &rope_tables}, nullptr)};
                  },
                  leaves, {.elements_per_leaf = 40});
    EXPECT_TRUE(check.error <= limit) << "error " << check.error << ": " << check.worst;
  }

 private:
  uint32_t next_ = 0;
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, "HEADWAY_TEST_SEED=" + std::to_string(seed)};
};

}  // namespace headway::testing
