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
#include "autograd/ops/rope.h"
#include "autograd/ops/token_shift.h"
#include "layers/attention/causal_attention.h"
#include "layers/attention/row_history.h"
#include "layers/attention/softmax_cost.h"
#include "layers/linear.h"

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
  /// ConfigError for values that exclude each other.
  void check() const {
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

/// Keys and values of the latent, the rows the convolutions look back on, and the last value row.
struct CcaState final : AttentionState {
  CcaState(const CcaConfig& config, int64_t num_history_rows, int64_t batch, int64_t capacity, DType dtype,
           Device device)
      : cache(batch, capacity, config.num_kv_heads, config.head_dim, dtype, device),
        queries(num_history_rows),
        keys(num_history_rows),
        values(config.value_shift ? 1 : 0) {}

  KvCache cache;
  RowHistory queries, keys, values;
};

class CcaLayer final : public AttentionLayer {
 public:
  CcaLayer(const CcaConfig& config, const ModelShape& shape)
      : config_(checked(config)),
        shape_(shape),
        query_(shape.model_dim, query_dim(), Init::normal(shape.init_std), false),
        key_(shape.model_dim, key_dim(), Init::normal(shape.init_std), false),
        value_(shape.model_dim, key_dim(), Init::normal(shape.init_std), false),
        output_(query_dim(), shape.model_dim, Init::normal(shape.output_init_std), false),
        // Both convolutions start as PyTorch's do: uniform up to 1 / sqrt(fan-in).
        conv_a_(
            add_parameter("conv_a/weight", {num_channels(), conv_widths(0)}, fan_in(conv_widths(0)), false)),
        conv_a_bias_(add_parameter("conv_a/bias", {num_channels()}, fan_in(conv_widths(0)), false)),
        conv_b_(add_parameter(
            "conv_b/weight",
            {config_.num_heads + config_.num_kv_heads, config_.head_dim, config_.head_dim, conv_widths(1)},
            fan_in(config_.head_dim * conv_widths(1)), true)),
        conv_b_bias_(
            add_parameter("conv_b/bias", {num_channels()}, fan_in(config_.head_dim * conv_widths(1)), false)),
        // beta = 1 in either form
        temperature_(add_parameter("temperature", {config_.num_kv_heads},
                                   is_exponential() ? Init::zeros() : Init::ones(), false)) {
    add_child("query", query_);
    add_child("key", key_);
    add_child("value", value_);
    add_child("output", output_);
  }

  Variable forward(Context& ctx, const Variable& x, const Positions& positions,
                   AttentionState* state) override {
    auto* const past = static_cast<CcaState*>(state);
    const Variable query0 = heads(ctx, query_.forward(ctx, x)), key0 = heads(ctx, key_.forward(ctx, x));
    const Variable value = shifted_values(ctx, x, past);
    const auto [query, key] = apply<CcaPrologue>(
        ctx,
        {.temperature = is_exponential() ? CcaTemperature::exponential : CcaTemperature::linear,
         .qk_mean = config_.qk_mean,
         .eps = config_.norm_eps},
        query0, key0, conv_a_.variable(), conv_a_bias_.variable(), conv_b_.variable(),
        conv_b_bias_.variable(), temperature_.variable(), past ? past->queries.rows().value() : Tensor(),
        past ? past->keys.rows().value() : Tensor());
    if (past) {
      past->queries.advance(ctx, query0);
      past->keys.advance(ctx, key0);
    }
    const Variable y = causal_attention(
        ctx, {rotate(ctx, query, positions), rotate(ctx, key, positions), value},
        {.window = config_.window, .dropout = config_.dropout}, past ? &past->cache : nullptr);
    return output_.forward(ctx, merge_heads(ctx, y));
  }

  std::unique_ptr<AttentionState> make_state(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override {
    return std::make_unique<CcaState>(config_, num_history_rows(), batch, capacity, dtype, device);
  }

  Cost cost(int64_t batch, int64_t tokens, int64_t value_bytes) const override {
    Cost cost = softmax_cost(config_, shape_, batch, tokens, value_bytes);
    const auto rows = static_cast<double>(batch * tokens), channels = static_cast<double>(num_channels());
    const double convolutions =
        2 * rows * channels * static_cast<double>(conv_widths(0) + config_.head_dim * conv_widths(1));
    cost.add({convolutions, 3 * convolutions});  // backward once again, then two products
    cost.saved_bytes +=
        rows * channels * static_cast<double>(value_bytes);  // queries and keys before the prologue
    return cost;
  }

  int64_t cache_bytes_per_token(int64_t value_bytes) const override { return 2 * key_dim() * value_bytes; }
  int64_t state_bytes(int64_t value_bytes) const override {
    const int64_t last_value = config_.value_shift ? key_dim() : 0;
    return (num_history_rows() * num_channels() + last_value) * value_bytes;
  }

 private:
  static const CcaConfig& checked(const CcaConfig& config) {
    config.check();
    return config;
  }
  static Init fan_in(int64_t inputs) { return Init::uniform(1 / std::sqrt(static_cast<double>(inputs))); }

  int64_t query_dim() const { return config_.num_heads * config_.head_dim; }
  int64_t key_dim() const { return config_.num_kv_heads * config_.head_dim; }
  int64_t num_channels() const { return query_dim() + key_dim(); }
  int64_t conv_widths(size_t i) const { return config_.conv_widths[i]; }
  int64_t num_history_rows() const { return conv_widths(0) + conv_widths(1) - 2; }
  bool is_exponential() const { return config_.temperature == "exp"; }

  Variable heads(Context& ctx, const Variable& rows) const {
    return reshape(ctx, rows,
                   {rows.size(0), rows.size(1), rows.size(2) / config_.head_dim, config_.head_dim});
  }
  Variable shifted_values(Context& ctx, const Variable& x, CcaState* past) const {
    const Variable value = value_.forward(ctx, x);
    if (!config_.value_shift) return heads(ctx, value);
    const Variable shifted = apply<TokenShift>(ctx, {.first_shifted = key_dim() / 2}, value,
                                               past ? past->values.rows().value() : Tensor());
    if (past) past->values.advance(ctx, value);
    return heads(ctx, shifted);
  }
  Variable rotate(Context& ctx, const Variable& x, const Positions& positions) const {
    const auto width = static_cast<int64_t>(config_.rope_fraction * static_cast<double>(config_.head_dim));
    if (!config_.rope || width == 0) return x;
    return apply<Rope>(ctx, {}, x, positions.rope(config_.rope_theta, width, x.value().dtype(), ctx.stream));
  }

  CcaConfig config_;
  ModelShape shape_;
  LinearLayer query_, key_, value_, output_;
  Parameter &conv_a_, &conv_a_bias_, &conv_b_, &conv_b_bias_, &temperature_;
};

HEADWAY_ATTENTION(cca, "Compressed convolutional attention (CCA, CCGQA): softmax attention in a latent",
                  "arXiv 2510.04476", CcaConfig, CcaLayer);

}  // namespace
}  // namespace headway
