// The operations of the linear family on the GPU.
#include <algorithm>
#include <array>
#include <string>

#include "autograd/apply.h"
#include "autograd/ops/activation.h"
#include "autograd/ops/attention_transfer.h"
#include "autograd/ops/causal_conv.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/gated_norm.h"
#include "autograd/ops/head_linear.h"
#include "autograd/ops/hedgehog_map.h"
#include "autograd/ops/last_rows.h"
#include "autograd/ops/linear_attention.h"
#include "autograd/ops/lrpe.h"
#include "autograd/ops/norm_aware_map.h"
#include "autograd/ops/repeat_heads.h"
#include "kernels/ops/linear_attention.h"
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
// One token, one chunk of 64 and less, several with a rest; widths within, at and beyond a tile of 64, odd
// ones and those that fit the tensor cores.
constexpr Dims kDims[] = {{1, 1, 1, 1, 1},      {2, 17, 2, 5, 3},    {2, 64, 1, 16, 64},
                          {2, 100, 2, 33, 20},  {1, 300, 2, 72, 65}, {1, 129, 1, 256, 130},
                          {1, 1, 2, 8, 8},      {3, 1, 2, 100, 130}, {2, 150, 2, 64, 64},
                          {1, 260, 3, 128, 64}, {1, 70, 2, 40, 128}, {1, 130, 1, 120, 104}};

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
    // Products of a single token may cancel too, and a few numbers have no average of roundings.
    const double limit = mode.normalise ? 4e-2 : d.T == 1 ? 1.5e-2 : 6e-3;
    check_dtype(DType::bf16, limit, inputs, two_segments, d.T == 1 ? 1 : 0.1);
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

/// Decays that forget at once, slowly and never; rests of a chunk at either end, and long enough for
/// segments.
TEST_F(GpuLinearAttention, DecayPerHeadAtAllLengths) {
  const std::vector<double> slopes{0, 0.0625, 1, 24};
  const auto H = static_cast<int64_t>(slopes.size());
  for (const int64_t width : {64, 96, 128, 256})
    for (const int64_t T : {1, 3, 63, 64, 65, 127, 129, 1000, 2049}) {
      if (T > 129 && width % 64 != 0) continue;
      SCOPED_TRACE("T " + std::to_string(T) + ", width " + std::to_string(width));
      const Shape rows{1, T, H, width};
      check_dtype(DType::bf16, 6e-3,
                  {values(rows), values(rows), values(rows), vector({1, H, width, width}),
                   Input{.values = slopes, .shape = {H}, .kind = Input::Kind::vector}},
                  [](Context& c, const Inputs& x) {
                    LinearInputs in{.q = x[0], .k = x[1], .v = x[2], .state = x[3], .slope = x[4].value()};
                    const auto [first, between] = linear_attention(c, in, {});
                    in.state = between;
                    return apply<Add>(c, {}, first, linear_attention(c, in, {})[0]);
                  });
    }
}

/// The normaliser over the same rests and segments, from a state and from none. Of a few tokens, values
/// less output cancel, which the size of their terms says; of many, weights are so small that it would hide
/// all.
TEST_F(GpuLinearAttention, NormalisedAtAllLengths) {
  const std::vector<double> slopes{0, 0.0625, 2};
  const auto H = static_cast<int64_t>(slopes.size());
  for (const auto& [F, V] : {std::array<int64_t, 2>{64, 64}, {128, 64}, {40, 16}, {128, 128}})
    for (const int64_t T : {1, 3, 63, 64, 65, 127, 129, 1000, 2049})
      for (const bool fades : {false, true}) {
        SCOPED_TRACE("T " + std::to_string(T) + ", F " + std::to_string(F) + ", V " + std::to_string(V) +
                     (fades ? ", decay" : ""));
        const Shape features{1, T, H, F};
        check_dtype(
            DType::bf16, 3e-2,
            {positive(values(features)), positive(values(features)), values({1, T, H, V}),
             Input{.values = slopes, .shape = {H}, .kind = Input::Kind::vector},
             positive(vector({1, H, F, V + 1}))},
            [fades = fades](Context& c, const Inputs& x) {
              LinearInputs in{.q = x[0], .k = x[1], .v = x[2]};
              if (fades) in.slope = x[3].value(), in.state = x[4];
              return linear_attention(c, in, {.normalise = true, .eps = 0.25})[0];
            },
            T < 63 ? 0.1 : 1e-6);
      }
}

/// The normaliser's own features over rests and segments, with a state.
TEST_F(GpuLinearAttention, NormaliserWithFeaturesOfItsOwnAtAllLengths) {
  const int64_t H = 2;
  for (const auto& [F, V] : {std::array<int64_t, 2>{128, 64}, {64, 64}, {40, 128}})
    for (const int64_t T : {3, 64, 65, 129, 2049}) {
      SCOPED_TRACE("T " + std::to_string(T) + ", F " + std::to_string(F) + ", V " + std::to_string(V));
      const Shape features{1, T, H, F};
      check_dtype(
          DType::bf16, 3e-2,
          {positive(values(features)), positive(values(features)), values({1, T, H, V}),
           positive(values(features)), positive(values(features)), positive(vector({1, H, F, V + 1})),
           positive(vector({H}))},
          [](Context& c, const Inputs& x) {
            return linear_attention(c,
                                    {.q = x[0],
                                     .k = x[1],
                                     .v = x[2],
                                     .norm_q = x[3],
                                     .norm_k = x[4],
                                     .state = x[5],
                                     .slope = x[6].value()},
                                    {.normalise = true, .eps = 0.25})[0];
          },
          T < 63 ? 0.1 : 1e-6);
    }
}

/// Long sequences of few heads are cut into segments that other blocks begin: the same bits every time.
TEST_F(GpuLinearAttention, BitsRepeat) {
  const Device gpu{Device::Kind::cuda, 0};
  const auto stream = backend(gpu).make_stream();
  const auto random = [&](const Shape& shape, uint32_t id, bool positive) {
    std::vector<bf16> values;
    for (const float x : random_values<float>(shape.numel(), seed_, id, 1.0))
      values.push_back(bf16(positive ? std::abs(x) : x));
    return Tensor::from<bf16>(values, shape, *stream);
  };
  struct Case {
    int64_t B, T, H, F, V;
    bool normalise;
  };
  for (const Case& d : {Case{1, 5000, 2, 64, 64, false}, Case{40, 130, 4, 64, 64, false},
                        Case{2, 2100, 3, 128, 128, false}, Case{1, 4000, 2, 128, 64, true}}) {
    SCOPED_TRACE("T " + std::to_string(d.T) + ", F " + std::to_string(d.F));
    const Shape features{d.B, d.T, d.H, d.F}, rows{d.B, d.T, d.H, d.V};
    const Tensor q = random(features, 1, d.normalise), k = random(features, 2, d.normalise),
                 v = random(rows, 3, false), dout = random(rows, 4, false);
    const Tensor slope =
        Tensor::from<float>(std::vector<float>(static_cast<size_t>(d.H), 0.01f), {d.H}, *stream);
    LinearAttentionInputs<bf16> in;
    in.q = q.view<const bf16, 4>("q"), in.k = k.view<const bf16, 4>("k"), in.v = v.view<const bf16, 4>("v");
    in.slope = slope.view<const float, 1>("slope");
    in.normalise = d.normalise, in.eps = 0.25;
    std::vector<std::vector<double>> first;
    for (int launches = 0; launches < 20; ++launches) {
      const auto empty = [&](const Shape& shape, DType dtype) { return Tensor::empty(shape, dtype, gpu); };
      const Tensor o = empty(rows, DType::bf16), dq = empty(features, DType::bf16),
                   dk = empty(features, DType::bf16), dv = empty(rows, DType::bf16),
                   state = empty({d.B, d.H, d.F, in.state_width()}, DType::f32),
                   denominator = empty({d.B, d.T, d.H}, DType::f32);
      launch(LinearAttentionForward<bf16>{.in = in,
                                          .o = o.view<bf16, 4>("o"),
                                          .denominator = denominator.view<float, 3>("denominator"),
                                          .state = state.view<float, 4>("state")},
             *stream);
      launch(LinearAttentionBackward<bf16>{.in = in,
                                           .o = o.view<const bf16, 4>("o"),
                                           .denominator = denominator.view<const float, 3>("denominator"),
                                           .dout = dout.view<const bf16, 4>("dout"),
                                           .dstate = {},
                                           .dq = dq.view<bf16, 4>("dq"),
                                           .dk = dk.view<bf16, 4>("dk"),
                                           .dv = dv.view<bf16, 4>("dv"),
                                           .dnorm_q = {},
                                           .dnorm_k = {},
                                           .dstate_in = {}},
             *stream);
      std::vector<std::vector<double>> all;
      for (const Tensor& x : {o, dq, dk, dv, state}) all.push_back(to_doubles(x, *stream));
      if (first.empty()) first = all;
      ASSERT_EQ(all, first) << "launch " << launches;
    }
  }
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

using GpuLinearOps = GpuTest;

TEST_F(GpuLinearOps, Silu) {
  for (const int64_t count : {1, 1000, 4099})
    check({values({count}, 2)}, [](Context& c, const Inputs& x) { return apply<Silu>(c, {}, x[0]); });
}

TEST_F(GpuLinearOps, GatedNorm) {
  for (const GateActivation activation : {GateActivation::identity, GateActivation::sigmoid})
    for (const auto& [rows, width] :
         {std::array<int64_t, 2>{1, 3}, {5, 7}, {300, 64}, {70, 1000}, {20, 4096}})
      for (const bool weighted : {false, true})
        for (const bool gated : {false, true}) {
          SCOPED_TRACE("width " + std::to_string(width) + (weighted ? ", weight" : "") +
                       (gated ? ", gate" : ""));
          std::vector<Input> inputs{values({rows, width})};
          if (weighted) inputs.push_back(vector({width}, 1));
          if (gated) inputs.push_back(values({rows, width}));
          check(inputs, [=](Context& c, const Inputs& x) {
            return apply<GatedNorm>(c, {.activation = activation, .eps = 1e-5}, x[0],
                                    weighted ? x[1] : Variable(), gated ? x.back() : Variable());
          });
        }
}

TEST_F(GpuLinearOps, Lrpe) {
  for (const auto& [B, T, H, Dh] : {std::array<int64_t, 4>{1, 1, 1, 1}, {2, 70, 3, 5}, {3, 130, 2, 64}})
    for (const int64_t offset : {0, 1000}) {
      SCOPED_TRACE("T " + std::to_string(T) + ", offset " + std::to_string(offset));
      check({values({B, T, H, Dh}), vector({H, Dh})}, [=](Context& c, const Inputs& x) {
        return apply<Lrpe>(c, {.positions = {.first = offset}}, x[0], x[1]);
      });
    }
}

constexpr HedgehogFeatures kHedgehogFeatures[] = {HedgehogFeatures::softmax, HedgehogFeatures::exp,
                                                  HedgehogFeatures::expmax, HedgehogFeatures::joint};

TEST_F(GpuLinearOps, HedgehogMap) {
  for (const HedgehogFeatures features : kHedgehogFeatures)
    for (const auto& [rows, width] :
         {std::array<int64_t, 2>{1, 2}, {7, 5}, {33, 64}, {5, 100}, {40, 128}, {3, 300}}) {
      SCOPED_TRACE("features " + std::to_string(static_cast<int>(features)) + ", width " +
                   std::to_string(width));
      // In bf16 only rows whose largest entries differ by more than a rounding keep them apart.
      Input u = values({rows, width});
      for (size_t i = 0; i < u.values.size(); i += static_cast<size_t>(width))
        u.values[i] = 4, u.values[i + 1] = -4;
      const auto map = [=](Context& c, const Inputs& x) {
        return apply<HedgehogMap>(c, {.features = features}, x[0], Tensor());
      };
      check_dtype(DType::f32, 2e-5, {u}, map);
      check_dtype(DType::bf16, 2e-2, {u}, map);  // the gradient is made of rounded features that cancel
    }
}

/// The map and its matrix in one kernel, where that takes them, and as two operations.
TEST_F(GpuLinearOps, HedgehogFeatureMap) {
  for (const HedgehogFeatures features : {HedgehogFeatures::softmax, HedgehogFeatures::joint})
    for (const auto& [B, T, H, Dh, Df] : {std::array<int64_t, 5>{1, 1, 1, 64, 64},
                                          {2, 63, 3, 64, 64},
                                          {1, 3000, 2, 64, 64},
                                          {2, 65, 2, 48, 16},
                                          {1, 70, 2, 8, 64},
                                          {1, 20, 2, 12, 9},
                                          {1, 70, 2, 128, 64}})
      for (const bool biased : {false, true}) {
        SCOPED_TRACE("T " + std::to_string(T) + ", " + std::to_string(Dh) + " to " + std::to_string(Df) +
                     (biased ? ", bias" : ""));
        std::vector<Input> inputs{values({B, T, H, Dh}),
                                  values({H, Df, Dh}, 1 / std::sqrt(static_cast<double>(Dh)))};
        if (biased) inputs.push_back(vector({H, Df}));
        const auto map = [=](Context& c, const Inputs& x) {
          return apply<HedgehogFeatureMap>(c, {.features = features}, x[0], x[1], biased ? x[2] : Variable());
        };
        check_dtype(DType::f32, 5e-5, inputs, map);
        check_dtype(DType::bf16, 2e-2, inputs, map, 1e-3);
      }
}

/// Output number i of the shifts, with one bound for all dtypes.
Variable shift_output(Context& c, const Tensor& query, const Tensor& key, const Tensor& before, int i) {
  const int64_t B = key.size(0), T = key.size(1), H = key.size(2);
  Tensor outputs[5];
  dispatch<double, float, bf16>(key.dtype(), "shift_output", [&]<class S>() {
    for (int output = 0; output < 5; ++output)
      outputs[output] =
          Tensor::empty(output < 4 ? Shape{B, T, H} : Shape{B, H}, dtype_of<Acc<S>>, c.device());
    launch(HedgehogShift<S>{.query = query.view<const S, 4>("query"),
                            .key = key.view<const S, 4>("key"),
                            .before = before.optional_view<const Acc<S>, 2>("before"),
                            .bound = 10,
                            .eps = 0.3,
                            .smallest = 1e-6,
                            .query_shift = outputs[0].view<Acc<S>, 3>("query_shift"),
                            .key_shift = outputs[1].view<Acc<S>, 3>("key_shift"),
                            .log_decay = outputs[2].view<Acc<S>, 3>("log_decay"),
                            .token_eps = outputs[3].view<Acc<S>, 3>("token_eps"),
                            .after = outputs[4].view<Acc<S>, 2>("after")},
           c.stream);
  });
  return Variable::leaf(outputs[i]);
}

TEST_F(GpuLinearOps, HedgehogShifts) {
  for (const int64_t T : {1, 17, 256, 600}) {
    SCOPED_TRACE(T);
    const Shape rows{2, T, 3, 10};
    const std::vector<Input> inputs{values(rows, 8), values(rows, 8), vector({2, 3}, 1)};
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const bool before : {false, true})
        for (int output = 0; output < 5; ++output)
          check_dtype(dtype, 2e-5, inputs, [=](Context& c, const Inputs& x) {
            return shift_output(c, x[0].value(), x[1].value(), before ? x[2].value() : Tensor(), output);
          });
  }
}

TEST_F(GpuLinearOps, HedgehogAttentionWithShiftsOfExp) {
  for (const int64_t T : {1, 100}) {
    SCOPED_TRACE(T);
    const Shape rows{2, T, 2, 12};
    check_dtype(DType::f32, 1e-4, {values(rows, 6), values(rows, 6), values({2, T, 2, 9})},
                [](Context& c, const Inputs& x) {
                  const HedgehogShifts s = hedgehog_shifts(c, x[0].value(), x[1].value(), Tensor(), 0.3);
                  const HedgehogMap::Config map{.features = HedgehogFeatures::exp};
                  return linear_attention(c,
                                          {.q = apply<HedgehogMap>(c, map, x[0], s.query),
                                           .k = apply<HedgehogMap>(c, map, x[1], s.key),
                                           .v = x[2],
                                           .log_decay = s.log_decay,
                                           .token_eps = s.token_eps},
                                          {.normalise = true})[0];
                });
  }
}

TEST_F(GpuLinearOps, NormAwareMap) {
  using Settings = NormAwareMapSettings;
  for (const auto map : {Settings::Map::cosine, Settings::Map::relu_split})
    for (const auto base : {Settings::Base::row, Settings::Base::direction})
      for (const auto phase : {Settings::Phase::tanh_direction, Settings::Phase::direction,
                               Settings::Phase::tanh_row, Settings::Phase::none})
        for (const bool power_from_norm : {false, true}) {
          SCOPED_TRACE("map " + std::to_string(static_cast<int>(map)) + ", base " +
                       std::to_string(static_cast<int>(base)) + ", phase " +
                       std::to_string(static_cast<int>(phase)) + (power_from_norm ? ", norm" : ""));
          const Settings settings{.map = map,
                                  .base = base,
                                  .phase = phase,
                                  .power_from_norm = power_from_norm,
                                  .lambda = 2.5,
                                  .norm_scale = 0.4,
                                  .direction_scale = 1.5};
          for (const auto& [rows, width] : {std::array<int64_t, 2>{3, 5}, {50, 7}, {300, 64}, {3, 300}}) {
            Input x = values({rows, width});
            if (rows > 1) std::fill_n(x.values.begin(), width + 1, 0.0);  // a row and an entry of zeros
            check({x}, [=](Context& c, const Inputs& in) {
              return apply<NormAwareMap>(c, settings, in[0], Variable());
            });
            check({x, positive(vector({1}, 3))}, [=](Context& c, const Inputs& in) {
              return apply<NormAwareMap>(c, settings, in[0], in[1]);
            });
          }
        }
}

TEST_F(GpuLinearOps, CausalConv) {
  for (const bool silu : {false, true})
    for (const int64_t K : {1, 2, 3, 4, 5})
      for (const auto& [B, T, C] :
           {std::array<int64_t, 3>{1, 1, 1}, {3, 2, 40}, {2, 300, 33}, {2, 101, 36}, {2, 301, 132}}) {
        SCOPED_TRACE("K " + std::to_string(K) + ", T " + std::to_string(T));
        const auto conv = [=](Context& c, const Inputs& x) {
          return apply<CausalConv>(c, {.silu = silu}, x[0], x[1], x.size() > 2 ? x[2] : Variable());
        };
        std::vector<Input> inputs{values({B, T, C}), values({C, K})};
        check(inputs, conv);
        if (K == 1) continue;
        inputs.push_back(values({B, K - 1, C}));
        check(inputs, conv);
      }
}

TEST_F(GpuLinearOps, LastRows) {
  for (const int64_t T : {1, 3, 5})
    check({values({2, T, 3}), values({2, 3, 3})},
          [](Context& c, const Inputs& x) { return apply<LastRows>(c, {.count = 3}, x[0], x[1]); });
}

TEST_F(GpuLinearOps, RepeatHeads) {
  for (const auto& [K, H, Dh] : {std::array<int64_t, 3>{1, 1, 1}, {2, 6, 5}, {3, 12, 64}}) {
    SCOPED_TRACE("heads " + std::to_string(H));
    check({values({2, 17, K, Dh})},
          [num_heads = H](Context& c, const Inputs& x) { return repeat_heads(c, x[0], num_heads); });
  }
}

TEST_F(GpuLinearOps, HeadLinear) {
  for (const auto& [B, T, H, in, out] :
       {std::array<int64_t, 5>{1, 1, 1, 1, 1}, {2, 3, 2, 5, 7}, {2, 100, 3, 64, 64}, {1, 129, 2, 48, 20}}) {
    SCOPED_TRACE("in " + std::to_string(in) + ", out " + std::to_string(out));
    const std::vector<Input> inputs{values({B, T, H, in}), values({H, out, in}), vector({H, out})};
    check(inputs, [](Context& c, const Inputs& x) { return apply<HeadLinear>(c, {}, x[0], x[1], x[2]); });
    check({inputs[0], inputs[1]},
          [](Context& c, const Inputs& x) { return apply<HeadLinear>(c, {}, x[0], x[1], Variable()); });
  }
}

TEST_F(GpuLinearOps, AttentionTransfer) {
  for (const auto& [B, T, H, Dh, F] :
       {std::array<int64_t, 5>{1, 1, 1, 2, 2}, {2, 17, 2, 5, 6}, {1, 64, 2, 64, 128}, {2, 150, 3, 20, 72}}) {
    SCOPED_TRACE("T " + std::to_string(T));
    const Shape rows{B, T, H, Dh}, features{B, T, H, F};
    std::vector<Input> inputs{values(rows), values(rows), positive(values(features)),
                              positive(values(features))};
    // Gradients go with the inverse of the features: of a size that the limits see.
    for (const size_t i : {2, 3})
      for (double& x : inputs[i].values) x *= 0x1p-10;
    check(inputs, [](Context& c, const Inputs& x) {
      return apply<AttentionTransfer>(c, {.scale = 0.3}, x[0].value(), x[1].value(), x[2], x[3]);
    });
  }
}

}  // namespace
}  // namespace headway::testing
