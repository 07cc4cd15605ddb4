#include "layers/attention/health.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "core/max_or_nan.h"

namespace headway {

void report_range(Context& ctx, const std::string& name, const std::vector<double>& values) {
  const auto [low, high] = std::ranges::minmax(values);
  ctx.metrics->add(name + "_min", low);
  ctx.metrics->add(name + "_mean",
                   std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()));
  ctx.metrics->add(name + "_max", high);
}

void report_activations(Context& ctx, const Tensor& activations) {
  std::vector<double> magnitudes = to_doubles(activations, ctx.stream);
  double largest = 0;
  for (double& value : magnitudes) largest = max_or_nan(largest, value = std::abs(value));
  ctx.metrics->add("max_activation", largest);
  std::erase_if(magnitudes, [](double value) { return std::isnan(value); });  // no order, no median
  const auto middle = magnitudes.begin() + std::ssize(magnitudes) / 2;
  std::ranges::nth_element(magnitudes, middle);
  for (const int factor : {100, 1000}) {
    const double limit = middle == magnitudes.end() ? 0 : factor * *middle;
    const auto above = std::count_if(middle, magnitudes.end(), [&](double value) { return value > limit; });
    ctx.metrics->add("activations_above_" + std::to_string(factor) + "x", static_cast<double>(above));
  }
}

void report_head_load(Context& ctx, const Tensor& gates, int64_t shared_heads) {
  const int64_t B = gates.size(0), H = gates.size(1), T = gates.size(2);
  const std::vector<double> values = to_doubles(gates, ctx.stream);
  std::vector<double> load;
  for (int64_t h = shared_heads; h < H; ++h) {
    double used = 0;
    for (int64_t b = 0; b < B; ++b)
      for (int64_t t = 0; t < T; ++t) used += values[static_cast<size_t>((b * H + h) * T + t)] != 0;
    load.push_back(used / static_cast<double>(B * T));
  }
  const double total = std::accumulate(load.begin(), load.end(), 0.0);
  double entropy = 0;
  for (const double share : load)
    if (share > 0) entropy -= share / total * std::log(share / total);
  ctx.metrics->add("load_min", std::ranges::min(load));
  ctx.metrics->add("load_max", std::ranges::max(load));
  ctx.metrics->add("load_entropy",
                   load.size() > 1 ? entropy / std::log(static_cast<double>(load.size())) : 1);
}

void report_kept_keys(Context& ctx, const Tensor& key_end) {
  const int64_t T = key_end.size(2);
  const std::vector<int32_t> ends = key_end.to_vector<int32_t>(ctx.stream);
  double kept = 0, age = 0;
  for (size_t n = 0; n < ends.size(); ++n) {
    const int64_t key = static_cast<int64_t>(n) % T, end = std::min<int64_t>(ends[n], T);
    if (end <= key) continue;
    kept += 1;
    age += static_cast<double>(end - key);
  }
  ctx.metrics->add("kept_share", kept / static_cast<double>(ends.size()));
  ctx.metrics->add("kept_age", kept > 0 ? age / kept : 0);
}

}  // namespace headway
