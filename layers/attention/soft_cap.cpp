// Softmax attention with bounded scores (Gemma 2, arXiv 2408.00118, section 2; arXiv 1611.09940 before it).
//
//   P_ij = softmax over visible j of cap tanh(q_i.k_j / (sqrt(Dh) cap))

#include "kernels/attention/variants/soft_cap.h"
#include "layers/attention/softmax_family.h"

namespace headway {
namespace {

struct SoftCapConfig : AttentionConfigOf<SoftCapConfig> {
  double cap = 50;
  void describe_kind(FieldVisitor& v) override {
    v("cap", cap, "bound of a score's magnitude", {.min = 1e-3, .max = 1e6});
  }
};

class SoftCapLayer final : public SoftmaxFamily<SoftCapConfig> {
  using SoftmaxFamily::SoftmaxFamily;

  Variable attend(Context& ctx, const Variable&, SoftmaxInputs inputs, int64_t query_offset) override {
    const attention::SoftCap::Params params{.window = window(), .cap = static_cast<float>(config().cap)};
    return softmax<attention::SoftCap>(ctx, inputs, params, query_offset);
  }
};

HEADWAY_ATTENTION(soft_cap, "Softmax attention with bounded scores", "arXiv 2408.00118, section 2",
                  SoftCapConfig, SoftCapLayer);

}  // namespace
}  // namespace headway
