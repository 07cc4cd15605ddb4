// Attention layers of every kind on the GPU, by the rows of tests/layers/kinds.h, against float64 on the CPU.
#include <algorithm>
#include <map>

#include "kernels/kernel_choice.h"
#include "layers/attention/attention_layer.h"
#include "tests/cuda/gpu_test.h"
#include "tests/layers/copy_state.h"
#include "tests/layers/kinds.h"

namespace headway::testing {
namespace {

class GpuLayers : public GpuTest, public ::testing::WithParamInterface<KindCase> {
 protected:
  static constexpr int64_t kDim = kKindModelDim;

  static std::unique_ptr<AttentionLayer> make(const nlohmann::json& keys) {
    const AttentionVariant& variant = find_attention(GetParam().kind);
    const auto config = variant.make_config();
    JsonFields fields(keys);
    config->describe(fields);
    const ModelShape shape{
        .model_dim = kDim, .num_layers = 2, .layer_index = 0, .init_std = 0.4, .output_init_std = 0.4};
    return variant.make(*config, shape);
  }

  struct Results {
    std::vector<double> output;
    std::map<std::string, std::vector<double>> gradients;
  };
  static Results run(AttentionLayer& layer, const Input& x, const Input& dy, DType dtype, Stream& stream) {
    Rng rng(3);
    RopeTables tables;
    Context ctx{.stream = stream, .rng = rng, .recording = true};
    layer.visit("", [](const std::string&, Parameter& p) { p.gradient->written = false; });
    const Variable leaf = Variable::leaf(from_doubles(x.values, x.shape, dtype, stream));
    const Variable y =
        layer.forward(ctx, leaf, {.offset = 0, .count = x.shape[1], .tables = &tables}, nullptr);
    const Tensor seed = from_doubles(dy.values, dy.shape, dtype, stream);
    backward(ctx, std::span(&y, 1), std::span(&seed, 1), MicroStep::last);
    Results results{.output = to_doubles(y.value(), stream), .gradients = {}};
    results.gradients["x"] = to_doubles(leaf.grad(), stream);
    layer.visit("", [&](const std::string& path, Parameter& p) {
      results.gradients[path] = to_doubles(p.gradient->grad, stream);
    });
    return results;
  }
  /// Root mean square of the difference, relative to the largest of that of the reference and of a term.
  static double difference(const std::vector<double>& values, const std::vector<double>& reference,
                           double term) {
    double error = 0, size = 0;
    for (size_t i = 0; i < reference.size(); ++i) {
      error += (values[i] - reference[i]) * (values[i] - reference[i]);
      size += reference[i] * reference[i];
    }
    return std::sqrt(error / std::max(size, static_cast<double>(reference.size()) * term * term));
  }

  /// The input with every number moved by up to a rounding of fp32.
  Input shaken(const Input& input) {
    const Input noise = values(input.shape, 0x1p-24);
    Input result = input;
    for (size_t i = 0; i < result.values.size(); ++i) result.values[i] *= 1 + noise.values[i];
    return result;
  }

  /// Narrow heads go to the scalar kernels, those of 64 channels in bf16 to the tensor cores. Limits are what
  /// roundings do to the layer: fp32 on the CPU is the yardstick, which shows how the layer magnifies them (a
  /// first token has hardly a gradient, as a difference of large terms), beside a few units of the last
  /// place.
  void check(DType dtype) {
    check_heads(dtype, GetParam().settings, {{2, 37, kDim}, {1, 1, kDim}});
    std::vector<nlohmann::json> wide;
    for (nlohmann::json keys : GetParam().settings) {
      if (keys.contains("rope_fraction") || keys.contains("feature_dim")) continue;  // of narrow heads
      for (nlohmann::json& member : keys)
        if (member.is_object()) member["head_dim"] = 64;
      if (find_attention(GetParam().kind).make_config()->has_heads()) keys["head_dim"] = 64;
      wide.push_back(keys);
    }
    const KernelChoices choices;
    check_heads(dtype, wide, {{2, 150, kDim}, {1, 1, kDim}});
    if (dtype == DType::bf16) {
      for (const char* scalar : {"softmax_attention_forward: scalar", "softmax_attention_backward: scalar"})
        EXPECT_EQ(choices.summary().find(scalar), std::string::npos) << choices.summary();
    }
  }

  void check_heads(DType dtype, const std::vector<nlohmann::json>& settings,
                   const std::vector<Shape>& shapes) {
    constexpr int kRuns = 3;
    constexpr double kMargin = 12, kUnits = 16;
    const double unit = dtype == DType::bf16 ? 0x1p-9 : 0x1p-24, roundings = kMargin * unit / 0x1p-24;
    const auto cpu = cpu_backend().make_stream(), gpu = backend({Device::Kind::cuda, 0}).make_stream();
    for (const nlohmann::json& changes : settings)
      for (const Shape& shape : shapes) {
        const nlohmann::json keys = with(GetParam().base, changes);
        if (dtype == DType::bf16 && GetParam().chooses(keys)) continue;
        SCOPED_TRACE(std::string(to_string(dtype)) + " " + keys.dump() + " tokens " +
                     std::to_string(shape[1]));
        const auto exact = make(keys), single = make(keys), fast = make(keys);
        exact->materialize(DType::f64, 7, *cpu);
        exact->visit("", [&](const std::string&, Parameter& p) {
          const Input noise = values(p.shape, 0.3);
          for (int64_t i = 0; i < p.shape.numel(); ++i) {
            double& value = p.value.data<double>()[i];
            value = static_cast<double>(
                static_cast<float>(bf16(static_cast<float>(value + noise.values[static_cast<size_t>(i)]))));
          }
        });
        single->materialize(DType::f32, 7, *cpu);
        copy_state(*exact, *cpu, *single, *cpu, DType::f32);
        fast->materialize(dtype, 7, *gpu);
        copy_state(*exact, *cpu, *fast, *gpu, accumulator_of(dtype));
        const Input x = values(shape), dy = values(shape);
        const Results expected = run(*exact, x, dy, DType::f64, *cpu);
        std::vector<Results> rounded;
        for (int i = 0; i < kRuns; ++i)
          rounded.push_back(run(*single, shaken(x), shaken(dy), DType::f32, *cpu));
        const auto limit_of = [&](const auto& part, double term) {
          double most = 0;
          for (const Results& results : rounded)
            most = std::max(most, difference(part(results), part(expected), term));
          return kUnits * unit + roundings * most;
        };
        const Results first = run(*fast, x, dy, dtype, *gpu), second = run(*fast, x, dy, dtype, *gpu);
        const double output_error = difference(first.output, expected.output, 0.01);
        const double most = limit_of([](const Results& r) { return r.output; }, 0.01);
        EXPECT_TRUE(output_error <= most) << "the output: " << output_error << ", expected at most " << most;
        EXPECT_EQ(first.output, second.output);
        // One token has no gradient in queries and keys but the roundings of terms that cancel.
        const double term = shape[1] == 1 ? 1 : 0.1;
        for (const auto& [path, gradient] : expected.gradients) {
          const double error = difference(first.gradients.at(path), gradient, term);
          // Gradients of a few numbers sum up many rows, which may cancel.
          const double most = limit_of([&](const Results& r) { return r.gradients.at(path); }, term);
          EXPECT_TRUE(error <= (gradient.size() < kDim ? 5 * most : most))
              << "gradient of " << path << ": " << error << ", expected at most " << most;
          EXPECT_EQ(first.gradients.at(path), second.gradients.at(path)) << path;
        }
      }
  }
};

TEST_P(GpuLayers, InFp32) { check(DType::f32); }
TEST_P(GpuLayers, InBf16) { check(DType::bf16); }

INSTANTIATE_TEST_SUITE_P(Kinds, GpuLayers, ::testing::ValuesIn(all_kind_cases()),
                         [](const auto& test) { return test.param.kind; });

}  // namespace
}  // namespace headway::testing
