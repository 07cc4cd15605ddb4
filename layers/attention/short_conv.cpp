#include "layers/attention/short_conv.h"

#include <cmath>
#include <string>

#include "autograd/apply.h"
#include "autograd/ops/causal_conv.h"
#include "autograd/ops/last_rows.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/segments.h"

namespace headway {

ShortConvs::ShortConvs(const Config& config) : config_(config) {
  if (config.taps == 0) return;
  const auto weight = [&](const std::string& name, int64_t channels) {
    // Uniform up to 1 / sqrt(taps), as PyTorch's convolutions start.
    return &add_parameter(name + "_conv/weight", {channels, config.taps},
                          Init::uniform(1 / std::sqrt(static_cast<double>(config.taps))), false);
  };
  query_ = weight("query", config.query_dim);
  key_ = weight("key", config.key_dim);
  value_ = weight("value", config.key_dim);
}

QueryKeyValue ShortConvs::forward(Context& ctx, const QueryKeyValue& rows,
                                  std::vector<RowHistory>* past) const {
  if (config_.taps == 0) return rows;
  const auto convolve = [&](const Variable& x, const Parameter& weight, size_t i, CausalConv::Config config) {
    if (ctx.split) {
      // Each of this rank's segments follows the last rows of the one before it.
      const Variable segments = reshape(ctx, x, {2 * x.size(0), x.size(1) / 2, x.size(2)});
      Variable before;
      if (config_.taps > 1)
        before = from_segments_before(
            ctx, apply<LastRows>(ctx, {.count = config_.taps - 1}, segments, Variable()));
      return reshape(ctx, apply<CausalConv>(ctx, config, segments, weight.variable(), before), x.shape());
    }
    RowHistory* const history = past ? &past->at(i) : nullptr;
    const Variable y =
        apply<CausalConv>(ctx, config, x, weight.variable(), history ? history->rows() : Variable());
    if (history) history->advance(ctx, x);
    return y;
  };
  return {convolve(rows.query, *query_, 0, {}), convolve(rows.key, *key_, 1, {}),
          convolve(rows.value, *value_, 2, {.silu = config_.silu_values})};
}

std::string ShortConvs::objection_to_split(int64_t segment_length) const {
  if (config_.taps <= segment_length + 1) return "";
  return "whose short_conv = " + std::to_string(config_.taps) +
         " looks back further than one segment of so many tokens";
}

std::vector<RowHistory> ShortConvs::make_history() const {
  if (config_.taps == 0) return {};
  return std::vector<RowHistory>(3, RowHistory(config_.taps - 1));
}

}  // namespace headway
