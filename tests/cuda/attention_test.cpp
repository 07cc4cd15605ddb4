// What the GPU's softmax kernels must do for any variant: hooks and key ranges that no product has, dropout
// of weights, and calls that go to the kernel they are meant for.
#include "kernels/attention/softmax_reference.h"
#include "kernels/kernel_choice.h"
#include "tests/cuda/attention_case.h"
#include "tests/kernels/attention/policies.h"
#include "tests/kernels/attention/product_variants.h"

namespace headway::testing {
namespace {

// The definition of the policies whose CUDA kernels are in policy_kernels.cu.
template <class V>
struct Definition {
  Definition() {
    register_kernel(Device::Kind::cpu, softmax_reference_forward<Exact<double>, V, double>);
    register_kernel(Device::Kind::cpu, softmax_reference_backward<Exact<double>, V, double>);
  }
};
[[maybe_unused]] const std::tuple<Definition<SoftCap>, Definition<FirstAndWindow>, Definition<SigmoidWeights>,
                                  Definition<WithDropout<SigmoidWeights>>, Definition<SecondOrderWeights>,
                                  Definition<LearnedSlopes>, Definition<Buckets>>
    kDefinitions;

using GpuPolicies = GpuAttentionTest;

// Around the tiles, and far beyond them; groups, one head, queries behind a cache.
constexpr AttentionDims kDims[] = {
    {1, 1, 1, 1, 1, 64},     {2, 63, 63, 2, 1, 64},    {1, 65, 65, 2, 2, 128},    {1, 130, 130, 4, 2, 64},
    {2, 33, 160, 2, 1, 128}, {1, 300, 300, 2, 1, 128}, {1, 1100, 1100, 1, 1, 64}, {1, 1100, 1100, 2, 1, 128}};

TEST_F(GpuPolicies, AHookOfTheScore) {
  for (const AttentionDims& d : kDims) check_attention<SoftCap>(d, {.params = {.cap = 1.5f}});
}

TEST_F(GpuPolicies, TwoIntervalsOfKeys) {
  for (const AttentionDims& d : kDims)
    for (const FirstAndWindow::Params& params :
         {FirstAndWindow::Params{.first = 3, .window = 20}, {.first = 70, .window = 100}})
      check_attention<FirstAndWindow>(d, {.params = params});
}

// Within a tile of 64 channels or of 128, in tiles of the wider one, and too wide or too odd for tensor
// cores.
constexpr AttentionDims kTwoWidths[] = {{2, 63, 63, 2, 1, 64, 40},   {1, 130, 130, 4, 2, 64, 128},
                                        {1, 33, 160, 2, 2, 128, 16}, {1, 300, 300, 2, 1, 32, 96},
                                        {1, 70, 70, 2, 1, 64, 200},  {1, 45, 45, 1, 1, 12, 64}};

TEST_F(GpuPolicies, ValuesWiderAndNarrowerThanKeys) {
  for (const AttentionDims& d : kTwoWidths) {
    check_attention<attention::Plain>(d, {});
    check_attention<attention::RowAffine>(d, {.params = {.window = 50}});
    check_attention<SigmoidWeights>(d, {.params = {.bias = -3}});
  }
}

TEST_F(GpuPolicies, WeightsThatAreNoSoftmax) {
  for (const AttentionDims& d : kDims) {
    check_attention<SigmoidWeights>(d, {.params = {.bias = -3}});
    check_attention<SecondOrderWeights>(d, {.params = {.window = 100}});
    check_attention<SigmoidWeights>(d, {.params = {.bias = -3}, .dropout = 0.3});
  }
}

TEST_F(GpuPolicies, ScoresWithLearnedParameters) {
  for (AttentionDims d : kDims) {
    check_attention<LearnedSlopes>(d, {});
    d.P = 70;
    check_attention<Buckets>(d, {.params = {.count = 70}});
  }
}

template <class V>
class GpuVariants : public GpuAttentionTest {};
using Products = ProductVariants<::testing::Types>;
TYPED_TEST_SUITE(GpuVariants, Products);

// With the bits of the CPU, so that the outputs are equal but for roundings.
TYPED_TEST(GpuVariants, DropTheSameWeightsAsTheCpu) {
  typename TypeParam::Params params{};
  if constexpr (requires { params.window; }) params.window = 50;
  for (const AttentionDims& d : {AttentionDims{1, 1, 1, 1, 1, 64},
                                 {2, 37, 37, 2, 1, 40},
                                 {1, 129, 129, 4, 2, 64},
                                 {2, 70, 150, 2, 2, 64},
                                 {1, 300, 300, 2, 1, 128},
                                 {1, 33, 33, 1, 1, 12}})
    for (const double dropout : {0.2, 0.7})
      this->template check_attention<TypeParam>(d, {.params = params, .dropout = dropout});
}

template <class V>
void expect_cuda_kernels() {
  EXPECT_TRUE((has_kernel<SoftmaxForward<V, float>>(Device::Kind::cuda)));
  EXPECT_TRUE((has_kernel<SoftmaxForward<V, bf16>>(Device::Kind::cuda)));
  EXPECT_TRUE((has_kernel<SoftmaxBackward<V, float>>(Device::Kind::cuda)));
  EXPECT_TRUE((has_kernel<SoftmaxBackward<V, bf16>>(Device::Kind::cuda)));
}

template <class V>
class CudaRegistration : public ::testing::Test {};
TYPED_TEST_SUITE(CudaRegistration, Products);

TYPED_TEST(CudaRegistration, EveryVariantHeaderHasCudaKernels) {
  expect_cuda_kernels<TypeParam>();
  expect_cuda_kernels<WithDropout<TypeParam>>();
}

class GpuKernelChoice : public GpuAttentionTest {
 protected:
  /// Of one pass forward and backward.
  static std::string choices(DType dtype, int64_t length, int64_t head_dim) {
    const auto stream = backend(Device{Device::Kind::cuda, 0}).make_stream();
    Rng rng(1);
    Context ctx{.stream = *stream, .rng = rng, .recording = true};
    const auto leaf = [&] {
      const Shape shape{1, length, 2, head_dim};
      return Variable::leaf(
          from_doubles(std::vector<double>(static_cast<size_t>(shape.numel()), 0.5), shape, dtype, *stream));
    };
    const KernelChoices chosen;
    const Variable y = softmax_attention<attention::Plain>(ctx, {.q = leaf(), .k = leaf(), .v = leaf()}, {});
    backward(ctx, std::span(&y, 1), std::span(&y.value(), 1), MicroStep::last);
    return chosen.summary();
  }
};

TEST_F(GpuKernelChoice, HeadsOf64And128ChannelsInBf16TakeTensorCores) {
  for (const int64_t width : {64, 128})
    for (const int64_t length : {1, 100, 1100}) {
      const std::string summary = choices(DType::bf16, length, width);
      EXPECT_NE(summary.find("softmax_attention_forward: "), std::string::npos) << summary;
      EXPECT_NE(summary.find("softmax_attention_backward: "), std::string::npos) << summary;
      EXPECT_EQ(summary.find("scalar"), std::string::npos) << summary;
    }
}

TEST_F(GpuKernelChoice, TheReasonForScalarKernelsIsNamed) {
  const auto expect_reason = [](const std::string& summary, const std::string& reason) {
    for (const char* direction : {"softmax_attention_forward", "softmax_attention_backward"})
      EXPECT_NE(summary.find(direction + std::string(": scalar (")), std::string::npos) << summary;
    EXPECT_NE(summary.find(reason), std::string::npos) << summary;
  };
  expect_reason(choices(DType::bf16, 20, 12),
                "not tensor-core, because a row of q has 12 channels, which is no multiple of 8");
  expect_reason(choices(DType::bf16, 20, 256),
                "not tensor-core, because a head has 256 channels, more than 128");
  expect_reason(choices(DType::f32, 20, 64), "not tensor-core, because it computes in bf16");
}

}  // namespace
}  // namespace headway::testing
