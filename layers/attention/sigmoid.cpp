// Sigmoid attention (arXiv 2409.04431): every key is weighed by itself, and weights of a row need not sum to
// one.
//
//   Y_i = sum over visible j of sigmoid(q_i.k_j / sqrt(Dh) + b) v_j,   b = -log(context_length)

#include <cmath>

#include "kernels/attention/variants/sigmoid_biased.h"
#include "layers/attention/softmax_family.h"

namespace headway {
namespace {

struct SigmoidConfig : AttentionConfigOf<SigmoidConfig> {
  int64_t context_length = 1024;
  void describe_kind(FieldVisitor& v) override {
    v("context_length", context_length,
      "tokens trained with, n: the bias -log n of scores makes weights sum to about one at the start",
      {.min = 1, .max = 1e9});
  }
};

class SigmoidLayer final : public SoftmaxFamily<SigmoidConfig> {
  using SoftmaxFamily::SoftmaxFamily;

  Variable attend(Context& ctx, const Variable&, SoftmaxInputs inputs, int64_t query_offset) override {
    const double bias = -std::log(static_cast<double>(config().context_length));
    const attention::SigmoidBiased::Params params{.window = window(), .bias = static_cast<float>(bias)};
    return softmax<attention::SigmoidBiased>(ctx, inputs, params, query_offset);
  }
};

HEADWAY_ATTENTION(sigmoid, "Sigmoid attention: weights without a denominator", "arXiv 2409.04431",
                  SigmoidConfig, SigmoidLayer);

}  // namespace
}  // namespace headway
