// Differential attention (arXiv 2410.05258, section 2.1): two softmax maps weigh the same values, and their
// difference is what a head gives, so that weights which both put on irrelevant tokens cancel.
//
//   Y_h    = (softmax(S_{2h}) - lambda softmax(S_{2h+1})) V_h           V_h as wide as both maps' keys
//   lambda = exp(a_1.b_1) - exp(a_2.b_2) + start,   start = 0.8 - 0.6 exp(-0.3 l) in layer l
//   y      = concat((1 - start) norm(Y_h)) Wo^T                         norm: RMSNorm per head
//
// num_heads counts maps. The kernels run all maps at once, with rows scaled by 1 or -lambda.

#include <cmath>
#include <string>
#include <vector>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/gate.h"
#include "autograd/ops/linear.h"
#include "autograd/ops/repeat_heads.h"
#include "autograd/ops/reshape.h"
#include "core/error.h"
#include "kernels/attention/variants/row_scaled.h"
#include "layers/attention/softmax_family.h"
#include "layers/norm.h"

namespace headway {
namespace {

struct DifferentialConfig : AttentionConfigOf<DifferentialConfig> {
  void check() const override {
    HEADWAY_CHECK(num_heads % 2 == 0 && num_kv_heads % 2 == 0, ConfigError,
                  "model.attention.num_heads = " + std::to_string(num_heads) +
                      " and num_kv_heads = " + std::to_string(num_kv_heads) +
                      ": expected even numbers for differential, whose heads are pairs");
  }
};

class DifferentialLayer final : public SoftmaxFamily<DifferentialConfig> {
 public:
  DifferentialLayer(const DifferentialConfig& config, const ModelShape& shape)
      : SoftmaxFamily(config, shape),
        start_(0.8 - 0.6 * std::exp(-0.3 * static_cast<double>(shape.layer_index))),
        lambda_query_(add_parameter("lambda_query", {2, config.head_dim}, Init::normal(0.1), false)),
        lambda_key_(add_parameter("lambda_key", {2, config.head_dim}, Init::normal(0.1), false)),
        norm_(NormStyle::rms, 2 * config.head_dim, 1e-5, false) {
    lambda_query_.keeps_precision = lambda_key_.keeps_precision = true;
    add_child("norm", norm_);
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    Cost cost = SoftmaxFamily::cost(batch, tokens, value_bytes);
    // Values are twice as wide as keys: one product more forward, two backward.
    const auto wider = [&](double pairs) {
      const double product = softmax_core_flop(config(), batch, pairs).forward / 2;
      return Flop{product, 2 * product};
    };
    cost.executed_flop += wider(executed_pairs(tokens, config().window));
    cost.ideal_flop += wider(visible_pairs(tokens, config().window));
    // These are kept: repeated keys and values, rows of twice the width before and after they are scaled,
    // the differences and their norm.
    const int64_t saved = (1 + 2) + (2 + 2 - 1) + 2;
    cost.saved_bytes +=
        static_cast<double>(batch * tokens * value_bytes * saved * config().num_heads * config().head_dim);
    return cost;
  }

 private:
  Variable attend(Context& ctx, const Variable&, SoftmaxInputs inputs, int64_t query_offset) override {
    const int64_t B = inputs.q.size(0), T = inputs.q.size(1), N = config().num_heads, Dh = config().head_dim;
    // Groups share pairs of keys, so every map gets its own.
    const Variable keys = repeat_heads(ctx, pairs(ctx, inputs.k), N / 2);
    inputs.k = reshape(ctx, keys, {B, keys.size(1), N, Dh});
    inputs.v = repeat_heads(ctx, pairs(ctx, inputs.v), N);
    inputs.row_scale = row_scale(ctx, {B, N, T}, inputs.q.value());
    const Variable y = softmax<attention::RowScaled>(ctx, inputs, {.window = window()}, query_offset);
    const Variable difference = apply<HeadMean>(ctx, {}, reshape(ctx, y, {B, T * (N / 2), 2, 2 * Dh}));
    const Variable normed = norm_.forward(ctx, reshape(ctx, difference, {B, T, N / 2, 2 * Dh}));
    return apply<Scale>(ctx, {.factor = 1 - start_}, normed);
  }

  /// [B,T,K,Dh] -> [B,T,K/2,2 Dh]. The filled part of a cache is not contiguous for several sequences, and is
  /// copied first.
  static Variable pairs(Context& ctx, const Variable& heads) {
    const Tensor& value = heads.value();
    const Variable rows = value.is_contiguous() ? heads : Variable(value.clone(ctx.stream));
    return reshape(ctx, rows, {rows.size(0), rows.size(1), rows.size(2) / 2, 2 * rows.size(3)});
  }

  /// Row scales [B,N,T]: 2 for the first map of each pair and -2 lambda for the second, since the mean of the
  /// two is taken afterwards.
  Variable row_scale(Context& ctx, const Shape& shape, const Tensor& like) {
    make_constants(ctx, shape, like);
    const int64_t Dh = config().head_dim, heads = shape[1];
    const Variable products = apply<Gate>(ctx, {.activation = GateActivation::identity},
                                          lambda_query_.variable(), lambda_key_.variable());
    const Variable mean = apply<HeadMean>(ctx, {}, reshape(ctx, products, {2, Dh, 1}));
    const Variable dot = apply<Scale>(ctx, {.factor = static_cast<double>(Dh)}, mean);
    const Variable exponentials = apply<Activate>(ctx, {.activation = GateActivation::exponential}, dot);
    const Variable scales =
        apply<Linear>(ctx, {}, reshape(ctx, exponentials, {1, 2}), Variable(weights_), Variable(biases_));
    return apply<Gate>(ctx, {.activation = GateActivation::identity}, Variable(ones_),
                       reshape(ctx, scales, {heads, 1}));
  }

  /// Sets ones_, and the weights_ and biases_ that turn the two exponentials of lambda into row scales.
  void make_constants(Context& ctx, const Shape& shape, const Tensor& like) {
    const DType dtype = accumulator_of(like.dtype());
    if (ones_ && ones_.shape() == shape && ones_.dtype() == dtype && ones_.device() == like.device()) return;
    dispatch<double, float>(dtype, "constants", [&]<class T>() {
      std::vector<T> weights, biases;
      for (int64_t head = 0; head < shape[1]; ++head) {
        const bool is_second = head % 2 == 1;
        weights.insert(weights.end(), {T(is_second ? -2 : 0), T(is_second ? 2 : 0)});
        biases.push_back(static_cast<T>(is_second ? -2 * start_ : 2));
      }
      weights_ = Tensor::from<T>(weights, {shape[1], 2}, ctx.stream);
      biases_ = Tensor::from<T>(biases, {shape[1]}, ctx.stream);
      ones_ = Tensor::from<T>(std::vector<T>(static_cast<size_t>(shape.numel()), T(1)), shape, ctx.stream);
    });
  }

  double start_;
  Parameter &lambda_query_, &lambda_key_;
  NormLayer norm_;
  Tensor ones_, weights_, biases_;  // kept from the last call, because most calls have the same shape
};

HEADWAY_ATTENTION(differential, "Differential attention: the difference of two softmax maps",
                  "arXiv 2410.05258", DifferentialConfig, DifferentialLayer);

}  // namespace
}  // namespace headway
