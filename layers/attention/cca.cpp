// Compressed convolutional attention, CCA where num_kv_heads = num_heads and CCGQA below that
// (arXiv 2510.04476): softmax attention inside a latent of num_heads * head_dim channels, which may be
// narrower than the model.
//
//   q, k = prologue(x Wq^T, x Wk^T)            convolutions, means, norms: kernels/ops/cca_prologue.h
//   v    = [ x_t Wv1^T | x_{t-1} Wv2^T ]       value shift, then the split into heads
//   y    = concat(softmax(rope(q) rope(k)^T / sqrt(Dh)) v) Wo^T

#include <cmath>
#include <string>

#include "autograd/ops/cca_prologue.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/token_shift.h"
#include "layers/attention/softmax_family.h"

namespace headway {
namespace {

struct CcaConfig : AttentionConfigOf<CcaConfig> {
  std::vector<int64_t> conv_widths = {2, 2};
  std::string temperature = "exp";
  bool qk_mean = true;
  bool value_shift = true;
  std::string value_shift_layout = "concat";
  double norm_eps = 1e-12;

  void describe_kind(FieldVisitor& v) override {
    v("conv_widths", conv_widths, "taps of the convolution per channel and of the one within heads",
      {.min = 1, .max = 64});
    v("temperature", temperature, "keys are scaled by exp(temperature) from 0, or linearly by it from 1",
      {.choices = {"exp", "linear"}});
    v("qk_mean", qk_mean, "add the mean of queries and keys before the convolutions");
    v("value_shift", value_shift, "the second half of the values comes from the previous token");
    v("value_shift_layout", value_shift_layout, "halves of the whole value row, before the split into heads",
      {.choices = {"concat"}});
    v("norm_eps", norm_eps, "added to the sum of squares of each query and key", {.min = 0, .max = 1});
  }
  void check() const override {
    HEADWAY_CHECK(conv_widths.size() == 2, ConfigError,
                  "model.attention.conv_widths has " + std::to_string(conv_widths.size()) +
                      " numbers: expected two, such as [2, 2]");
    HEADWAY_CHECK(!qk_norm, ConfigError,
                  "model.attention.qk_norm = true: expected false, for cca has a norm of its own");
    HEADWAY_CHECK(!bias, ConfigError, "model.attention.bias = true: expected false for cca");
    HEADWAY_CHECK(!value_shift || num_kv_heads * head_dim % 2 == 0, ConfigError,
                  "model.attention.value_shift = true needs an even num_kv_heads * head_dim, not " +
                      std::to_string(num_kv_heads * head_dim));
  }
};

class CcaLayer final : public SoftmaxFamily<CcaConfig> {
 public:
  CcaLayer(const CcaConfig& config, const ModelShape& shape)
      : SoftmaxFamily(config, shape),
        // Both convolutions start as PyTorch's do: uniform up to 1 / sqrt(fan-in).
        conv_a_(
            add_parameter("conv_a/weight", {num_channels(), conv_widths(0)}, fan_in(conv_widths(0)), false)),
        conv_a_bias_(add_parameter("conv_a/bias", {num_channels()}, fan_in(conv_widths(0)), false)),
        conv_b_(add_parameter(
            "conv_b/weight",
            {config.num_heads + config.num_kv_heads, config.head_dim, config.head_dim, conv_widths(1)},
            fan_in(config.head_dim * conv_widths(1)), true)),
        conv_b_bias_(
            add_parameter("conv_b/bias", {num_channels()}, fan_in(config.head_dim * conv_widths(1)), false)),
        // beta = 1 in either form
        temperature_(add_parameter("temperature", {config.num_kv_heads},
                                   is_exponential() ? Init::zeros() : Init::ones(), false)) {}

  /// Keys and values of the latent, and behind them the rows of queries and keys that the convolutions look
  /// back on and the last row of values.
  std::unique_ptr<AttentionState> make_state(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override {
    auto cache =
        std::make_unique<KvCache>(batch, capacity, config().num_kv_heads, config().head_dim, dtype, device);
    cache->convolutions = {RowHistory(num_history_rows()), RowHistory(num_history_rows()), RowHistory(1)};
    return cache;
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    Cost cost = SoftmaxFamily::cost(batch, tokens, value_bytes);
    const auto rows = static_cast<double>(batch * tokens), channels = static_cast<double>(num_channels());
    const double convolutions =
        2 * rows * channels * static_cast<double>(conv_widths(0) + config().head_dim * conv_widths(1));
    cost.add({convolutions, 3 * convolutions});  // backward once again, then two products
    cost.saved_bytes +=
        rows * channels * static_cast<double>(value_bytes);  // queries and keys before the prologue
    return cost;
  }

  int64_t state_bytes(int64_t value_bytes) const override {
    const int64_t last_value = config().value_shift ? key_dim() : 0;
    return (num_history_rows() * num_channels() + last_value) * value_bytes;
  }

 private:
  QueryKeyValue heads(Context& ctx, const Variable& x, const Positions& positions, KvCache* past) override {
    RowHistory *const queries = past ? &past->convolutions[0] : nullptr,
                      *const keys = past ? &past->convolutions[1] : nullptr,
                      *const values = past ? &past->convolutions[2] : nullptr;
    const QueryKeyValue latent = projections().project(ctx, x);
    const Variable value = config().value_shift ? shifted(ctx, latent.value, values) : latent.value;
    const auto [query, key] = apply<CcaPrologue>(
        ctx,
        {.temperature = is_exponential() ? CcaTemperature::exponential : CcaTemperature::linear,
         .qk_mean = config().qk_mean,
         .eps = config().norm_eps},
        latent.query, latent.key, conv_a_.variable(), conv_a_bias_.variable(), conv_b_.variable(),
        conv_b_bias_.variable(), temperature_.variable(), queries ? queries->rows().value() : Tensor(),
        keys ? keys->rows().value() : Tensor());
    if (queries) queries->advance(ctx, latent.query);
    if (keys) keys->advance(ctx, latent.key);
    return projections().place(ctx, {query, key, value}, positions);
  }
  /// The second half of the channels of all heads comes from the token before.
  Variable shifted(Context& ctx, const Variable& heads, RowHistory* past) const {
    const Variable rows = merge_heads(ctx, heads);
    const Variable value = apply<TokenShift>(ctx, {.first_shifted = key_dim() / 2}, rows,
                                             past ? past->rows().value() : Tensor());
    if (past) past->advance(ctx, rows);
    return reshape(ctx, value, heads.shape());
  }

  static Init fan_in(int64_t inputs) { return Init::uniform(1 / std::sqrt(static_cast<double>(inputs))); }

  int64_t query_dim() const { return config().num_heads * config().head_dim; }
  int64_t key_dim() const { return config().num_kv_heads * config().head_dim; }
  int64_t num_channels() const { return query_dim() + key_dim(); }
  int64_t conv_widths(size_t i) const { return config().conv_widths[i]; }
  int64_t num_history_rows() const { return conv_widths(0) + conv_widths(1) - 2; }
  bool is_exponential() const { return config().temperature == "exp"; }

  Parameter &conv_a_, &conv_a_bias_, &conv_b_, &conv_b_bias_, &temperature_;
};

HEADWAY_ATTENTION(cca, "Compressed convolutional attention (CCA, CCGQA): softmax attention in a latent",
                  "arXiv 2510.04476", CcaConfig, CcaLayer);

}  // namespace
}  // namespace headway
