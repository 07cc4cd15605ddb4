#include "trainers/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace headway {

int32_t sample_token(std::span<const float> logits, const SamplingConfig& config, const RandomKey& key,
                     uint64_t draw) {
  const auto likelier = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  if (config.temperature == 0) return *std::min_element(ids.begin(), ids.end(), likelier);

  size_t count = ids.size();
  if (config.top_k > 0) count = std::min(count, static_cast<size_t>(config.top_k));
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), ids.end(), likelier);
  ids.resize(count);

  std::vector<double> cumulative(count);
  const double largest = logits[static_cast<size_t>(ids[0])];
  double total = 0;
  for (size_t i = 0; i < count; ++i) {
    total += std::exp((logits[static_cast<size_t>(ids[i])] - largest) / config.temperature);
    cumulative[i] = total;
  }
  const double target = static_cast<double>(uniform(key, draw)) * total;
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.end(), target);
  return ids[std::min(count - 1, static_cast<size_t>(chosen - cumulative.begin()))];
}

}  // namespace headway
