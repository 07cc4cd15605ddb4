// Attention with linear biases (ALiBi, arXiv 2108.12409) and learned slopes: a score falls with the distance
// of its key, at a rate m_h that every head learns.
//
//   P_ij = softmax over visible j of ( q_i.k_j / sqrt(Dh) - m_h (i - j) ),   m_h = u a_h,  u = 2^(-8/H)
//
// The learned a_h starts at u^h, heads from 0, so that the slopes are those of the paper's section 3.

#include <cmath>

#include "kernels/attention/variants/alibi.h"
#include "layers/attention/softmax_family.h"

namespace headway {
namespace {

struct AlibiConfig : AttentionConfigOf<AlibiConfig> {
  AlibiConfig() { rope = false; }
};

class AlibiLayer final : public SoftmaxFamily<AlibiConfig> {
 public:
  AlibiLayer(const AlibiConfig& config, const ModelShape& shape)
      : SoftmaxFamily(config, shape),
        unit_(std::exp2(-8 / static_cast<double>(config.num_heads))),
        slopes_(add_parameter("slopes", {config.num_heads, 1}, Init::geometric(unit_), false)) {
    slopes_.keeps_precision = true;
  }

 private:
  Variable attend(Context& ctx, const Variable&, SoftmaxInputs inputs, int64_t query_offset) override {
    inputs.head_parameter = slopes_.variable();
    const attention::Alibi::Params params{.window = window(), .unit = static_cast<float>(unit_)};
    return softmax<attention::Alibi>(ctx, inputs, params, query_offset);
  }

  double unit_;
  Parameter& slopes_;
};

HEADWAY_ATTENTION(alibi, "Softmax attention with a learned linear bias per head (ALiBi)", "arXiv 2108.12409",
                  AlibiConfig, AlibiLayer);

}  // namespace
}  // namespace headway
