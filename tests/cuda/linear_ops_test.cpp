// The operations of the linear family on the GPU.
#include <algorithm>
#include <string>

#include "autograd/apply.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/linear_attention.h"
#include "tests/cuda/gpu_test.h"

namespace headway::testing {
namespace {

using Inputs = std::vector<Variable>;

/// Sums of positive features are no denominators near zero.
Input positive(Input input) {
  for (double& x : input.values) x = std::max(std::abs(x), 0.125);
  return input;
}
Input negative(Input input) {
  for (double& x : input.values) x = -std::abs(x);
  return input;
}

struct Dims {
  int64_t B, T, H, F, V;
};
// One token, one chunk of 64 and less, several with a rest; widths within, at and beyond a tile of 64.
constexpr Dims kDims[] = {{1, 1, 1, 1, 1},     {2, 17, 2, 5, 3},    {2, 64, 1, 16, 64},
                          {2, 100, 2, 33, 20}, {1, 300, 2, 72, 65}, {1, 129, 1, 256, 130}};

enum class Fading : uint8_t { none, per_head, per_token };

struct Mode {
  Fading fading = Fading::none;
  bool normalise = false, apart = false, token_eps = false, state = false;
};

class GpuLinearAttention : public GpuTest {
 protected:
  /// Two segments, the second from the state of the first: all inputs and outputs at once.
  void check_mode(const Dims& d, const Mode& mode) {
    SCOPED_TRACE("T " + std::to_string(d.T) + ", F " + std::to_string(d.F) + ", V " + std::to_string(d.V));
    const Shape features{d.B, d.T, d.H, d.F}, rows{d.B, d.T, d.H, d.V}, tokens{d.B, d.T, d.H};
    const auto feature = [&] { return mode.normalise ? positive(values(features)) : values(features); };
    std::vector<Input> inputs{feature(), feature(), values(rows)};
    const auto add = [&](bool wanted, auto&& make) {
      if (wanted) inputs.push_back(make());
      return wanted ? static_cast<int>(inputs.size()) - 1 : -1;
    };
    const int norm_q = add(mode.apart, feature), norm_k = add(mode.apart, feature);
    const int state = add(mode.state, [&] {
      const Input numbers = vector({d.B, d.H, d.F, d.V + (mode.normalise ? 1 : 0)});
      return mode.normalise ? positive(numbers) : numbers;
    });
    const int slope = add(mode.fading == Fading::per_head, [&] { return positive(vector({d.H})); });
    const int log_decay = add(mode.fading == Fading::per_token, [&] { return negative(vector(tokens)); });
    const int token_eps = add(mode.token_eps, [&] { return positive(vector(tokens)); });
    const auto two_segments = [=](Context& c, const Inputs& x) {
      const auto variable = [&](int i) { return i < 0 ? Variable() : x[static_cast<size_t>(i)]; };
      const auto constant = [&](int i) { return i < 0 ? Tensor() : x[static_cast<size_t>(i)].value(); };
      LinearInputs in{.q = x[0],
                      .k = x[1],
                      .v = x[2],
                      .norm_q = variable(norm_q),
                      .norm_k = variable(norm_k),
                      .state = variable(state),
                      .slope = constant(slope),
                      .log_decay = constant(log_decay),
                      .token_eps = constant(token_eps)};
      const LinearAttention::Config config{.normalise = mode.normalise, .eps = 0.25};
      const auto [first, between] = linear_attention(c, in, config);
      in.state = between;
      return apply<Add>(c, {}, first, linear_attention(c, in, config)[0]);
    };
    check_dtype(DType::f32, 2e-5, inputs, two_segments);
    // The normaliser's gradient comes from the rounded output, and values less output cancel most of it.
    check_dtype(DType::bf16, mode.normalise ? 2e-2 : 6e-3, inputs, two_segments);
  }
  void check_sizes(const Mode& mode) {
    for (const Dims& d : kDims) check_mode(d, mode);
  }
};

TEST_F(GpuLinearAttention, Plain) { check_sizes({}); }
TEST_F(GpuLinearAttention, WithState) { check_sizes({.state = true}); }
TEST_F(GpuLinearAttention, DecayPerHead) { check_sizes({.fading = Fading::per_head, .state = true}); }
TEST_F(GpuLinearAttention, DecayPerToken) { check_sizes({.fading = Fading::per_token, .state = true}); }
TEST_F(GpuLinearAttention, Normalised) { check_sizes({.normalise = true}); }
TEST_F(GpuLinearAttention, NormalisedWithEverything) {
  for (const Fading fading : {Fading::none, Fading::per_head, Fading::per_token})
    check_sizes({.fading = fading, .normalise = true, .token_eps = true, .state = true});
}
TEST_F(GpuLinearAttention, NormaliserWithFeaturesOfItsOwn) {
  check_sizes({.normalise = true, .apart = true});
  check_sizes(
      {.fading = Fading::per_token, .normalise = true, .apart = true, .token_eps = true, .state = true});
}

TEST_F(GpuLinearAttention, StateAfterTheLastToken) {
  for (const Dims& d : kDims) {
    SCOPED_TRACE("T " + std::to_string(d.T));
    const Shape features{d.B, d.T, d.H, d.F};
    check({positive(values(features)), positive(values(features)), values({d.B, d.T, d.H, d.V})},
          [](Context& c, const Inputs& x) {
            return linear_attention(c, {.q = x[0], .k = x[1], .v = x[2]}, {.normalise = true})[1];
          });
  }
}

/// A decay whose inverse would overflow: exp(40 T).
TEST_F(GpuLinearAttention, StrongDecayKeepsInRange) {
  const Dims d{1, 200, 2, 16, 8};
  Input decays = vector({d.B, d.T, d.H});
  for (size_t i = 0; i < decays.values.size(); ++i) decays.values[i] = i % 3 == 0 ? -40 : -0.5;
  const Shape features{d.B, d.T, d.H, d.F};
  check({values(features), values(features), values({d.B, d.T, d.H, d.V}), decays},
        [](Context& c, const Inputs& x) {
          return linear_attention(c, {.q = x[0], .k = x[1], .v = x[2], .log_decay = x[3].value()}, {})[0];
        });
}

}  // namespace
}  // namespace headway::testing
