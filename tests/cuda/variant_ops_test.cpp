// The operations of the softmax family's variants on the GPU against the CPU.
#include "autograd/apply.h"
#include "autograd/ops/activation.h"
#include "autograd/ops/affine_scale.h"
#include "autograd/ops/argmax.h"
#include "autograd/ops/cca_prologue.h"
#include "autograd/ops/dynamic_mask.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/gate.h"
#include "autograd/ops/moh_gates.h"
#include "autograd/ops/token_shift.h"
#include "kernels/attention/variants/key_masked.h"
#include "kernels/attention/variants/row_affine.h"
#include "kernels/attention/variants/row_scaled.h"
#include "kernels/ops/dynamic_mask.h"
#include "tests/cuda/attention_case.h"

namespace headway::testing {
namespace {

using Inputs = std::vector<Variable>;
using GpuVariantOps = GpuTest;

TEST_F(GpuVariantOps, Gates) {
  for (const GateActivation activation :
       {GateActivation::identity, GateActivation::sigmoid, GateActivation::ns_sigmoid, GateActivation::silu,
        GateActivation::exponential})
    for (const bool adds : {false, true})
      for (const Shape& scores :
           {Shape{37, 3, 40}, {37, 3, 1}, {37, 1, 40}, {1, 3, 40}, {1, 3, 1}, {37, 1, 1}}) {
        SCOPED_TRACE(scores.to_string() + (adds ? " adds" : " multiplies"));
        check({values({37, 3, 40}), values(scores)}, [&](Context& c, const Inputs& x) {
          return apply<Gate>(c, {.activation = activation, .adds = adds}, x[0], x[1]);
        });
      }
}

TEST_F(GpuVariantOps, ActivationsAndMeansOfHeads) {
  check({values({1003})}, [](Context& c, const Inputs& x) {
    return apply<Activate>(c, {.activation = GateActivation::silu}, x[0]);
  });
  for (const Shape& shape : {Shape{2, 5, 3, 7}, {1, 1, 1, 1}, {2, 100, 6, 64}})
    check({values(shape)}, [](Context& c, const Inputs& x) { return apply<HeadMean>(c, {}, x[0]); });
}

TEST_F(GpuVariantOps, AffineScales) {
  for (const AffineActivation activation : {AffineActivation::lin_clip, AffineActivation::sigmoid})
    for (const AffineCount count : {AffineCount::fixed, AffineCount::visible, AffineCount::all_keys})
      for (const Shape& shape : {Shape{1, 1, 1}, {2, 70, 3}}) {
        const AffineScaleConfig config{
            .activation = activation, .count = count, .fixed_count = 5, .window = 9, .query_offset = 3};
        const std::vector<Input> inputs{values(shape, 3), vector({shape[2]})};
        check(inputs, [&](Context& c, const Inputs& x) {
          const auto [scale, bias] =
              apply<AffineScale>(c, {.scale = config, .has_bias = true}, x[0], x[1].value(), Tensor());
          return apply<Add>(c, {}, scale, apply<Silu>(c, {}, bias));  // tells the two gradients apart
        });
      }
}

TEST_F(GpuVariantOps, GatesOfHeadsAndTheirBalanceLoss) {
  for (const bool renormalises : {false, true})
    for (const int64_t shared : {0, 2})
      for (const int64_t tokens : {1, 77}) {
        const MohConfig routing{.shared_heads = shared, .top_k = 3, .renormalises = renormalises};
        const std::vector<Input> logits{values({2, tokens, routing.num_logits(8)})};
        for (const size_t output : {0u, 1u})
          check(logits, [&](Context& c, const Inputs& x) {
            return apply<MohGates>(c, {.routing = routing, .num_heads = 8}, x[0])[output];
          });
      }
}

TEST_F(GpuVariantOps, ConvolutionsMeansAndNormsOfCca) {
  struct Case {
    int64_t B, T, H, K, Dh, K0, K1;
    bool history, qk_mean;
  };
  for (const Case& c : {Case{2, 70, 4, 2, 64, 2, 2, false, true},
                        {1, 1, 2, 2, 8, 2, 2, false, true},
                        {3, 5, 2, 1, 40, 3, 2, true, true},
                        {2, 300, 6, 2, 16, 2, 3, true, false},
                        {2, 9, 1, 1, 128, 1, 1, false, true}}) {
    SCOPED_TRACE("T " + std::to_string(c.T) + " Dh " + std::to_string(c.Dh));
    const int64_t channels = (c.H + c.K) * c.Dh, past = c.K0 + c.K1 - 2;
    const auto temperature = c.qk_mean ? CcaTemperature::exponential : CcaTemperature::linear;
    const double scale = 1 / std::sqrt(static_cast<double>(c.Dh * c.K1));
    std::vector<Input> inputs{values({c.B, c.T, c.H, c.Dh}),
                              values({c.B, c.T, c.K, c.Dh}),
                              values({channels, c.K0}),
                              vector({channels}),
                              values({c.H + c.K, c.Dh, c.Dh, c.K1}, scale),
                              vector({channels}),
                              vector({c.K}, 1)};
    if (c.history) {
      inputs.push_back(values({c.B, past, c.H, c.Dh}));
      inputs.push_back(values({c.B, past, c.K, c.Dh}));
    }
    for (const size_t output : {0u, 1u})
      check(inputs, [&](Context& ctx, const Inputs& x) {
        const Tensor none;
        return apply<CcaPrologue>(ctx, {.temperature = temperature, .qk_mean = c.qk_mean}, x[0], x[1], x[2],
                                  x[3], x[4], x[5], x[6], c.history ? x[7].value() : none,
                                  c.history ? x[8].value() : none)[output];
      });
  }
}

TEST_F(GpuVariantOps, BiasesOfDynamicMasks) {
  for (const bool exponential : {false, true})
    for (const Shape& shape : {Shape{1, 1, 1}, {2, 300, 3}})
      check({values(shape), vector({shape[2]})}, [&](Context& c, const Inputs& x) {
        return apply<DynamicMask>(c, {.top_w = 4, .exponential = exponential}, x[0], x[1])[0];
      });
}

// Scores of bf16 numbers tie often: the newer key wins on both.
TEST_F(GpuVariantOps, DynamicMasksKeepTheSameKeysAsTheCpu) {
  const auto host = cpu_backend().make_stream();
  const Device gpu{Device::Kind::cuda, 0};
  const auto stream = backend(gpu).make_stream();
  Rng rng(1);
  for (const int64_t length : {1, 5, 256, 700})
    for (const int64_t top_w : {1, 7, 300})
      for (const float rate : {0.0f, 1.0f}) {
        std::vector<float> scores;
        for (const float x : random_values<float>(2 * length * 2, seed_, 0))
          scores.push_back(std::round(4 * x) / 4);
        const auto ends = [&](Stream& on) {
          Context c{.stream = on, .rng = rng};
          return apply<DynamicMask>(c, {.top_w = top_w, .exponential = true},
                                    Variable(Tensor::from<float>(scores, {2, length, 2}, on)),
                                    Variable(Tensor::from<float>(std::vector<float>(2, rate), {2}, on)))[1]
              .value()
              .to_vector<int32_t>(on);
        };
        EXPECT_EQ(ends(*stream), ends(*host)) << length << " keys, top_w " << top_w << ", rate " << rate;
      }
}

TEST_F(GpuVariantOps, TokenShift) {
  for (const int64_t first : {0, 5, 12})
    for (const int64_t tokens : {1, 33}) {
      check({values({2, tokens, 12})}, [&](Context& c, const Inputs& x) {
        return apply<headway::TokenShift>(c, {.first_shifted = first}, x[0], Tensor());
      });
      check({values({2, tokens, 12}), values({2, 1, 12})}, [&](Context& c, const Inputs& x) {
        return apply<headway::TokenShift>(c, {.first_shifted = first}, x[0], x[1].value());
      });
    }
}

TEST_F(GpuVariantOps, ArgmaxIsThatOfTheCpu) {
  const Device gpu{Device::Kind::cuda, 0};
  const auto host = cpu_backend().make_stream();
  const auto stream = backend(gpu).make_stream();
  Rng rng(1);
  std::vector<float> x;
  for (const float value : random_values<float>(70 * 333, seed_, 0)) x.push_back(std::round(3 * value));
  x[5 * 333 + 8] = std::nanf("");
  const auto columns = [&](Stream& on) {
    Context c{.stream = on, .rng = rng};
    return argmax_rows(c, Tensor::from<float>(x, {70, 333}, on)).to_vector<int32_t>(on);
  };
  EXPECT_EQ(columns(*stream), columns(*host));
}

constexpr AttentionDims kDims[] = {
    {1, 1, 1, 1, 1, 16}, {2, 17, 17, 2, 1, 32}, {1, 100, 100, 4, 2, 64}, {2, 129, 129, 2, 2, 128}};

using GpuVariantAttention = GpuAttentionTest;

TEST_F(GpuVariantAttention, ScaledRows) {
  for (const AttentionDims& d : kDims)
    for (const int window : {0, 20}) {
      check_attention<attention::RowScaled>(d, {.params = {.window = window}});
      check_attention<attention::RowAffine>(d, {.params = {.window = window}});
    }
}

TEST_F(GpuVariantAttention, ChosenKeys) {
  for (const AttentionDims& d : kDims) check_attention<attention::KeyMasked>(d, {});
}

}  // namespace
}  // namespace headway::testing
