// Learning-rate schedules, as a factor on the peak rate.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace headway {

struct Schedule {
  enum class Kind : uint8_t { constant, linear, cosine, wsd };

  Kind kind = Kind::cosine;
  int64_t warmup_steps = 0;
  int64_t total_steps = 1;      // of the whole schedule, however early a run stops
  double min_ratio = 0.1;       // final rate / peak rate
  double decay_fraction = 0.2;  // wsd: share of the steps spent decaying at the end

  static Kind parse_kind(std::string_view name) {
    if (name == "constant") return Kind::constant;
    if (name == "linear") return Kind::linear;
    return name == "wsd" ? Kind::wsd : Kind::cosine;
  }

  /// Factor of step 0 .. total_steps-1. Warm-up rises linearly and reaches 1 at its last step; the decay
  /// reaches min_ratio at the last step.
  double factor(int64_t step) const {
    if (step < warmup_steps) return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    const int64_t decay_steps = decay_length();
    const int64_t into_decay = step + 1 - (total_steps - decay_steps);
    if (kind == Kind::constant || into_decay <= 0) return 1;
    const double progress = std::min(1.0, static_cast<double>(into_decay) / static_cast<double>(decay_steps));
    const double remaining =
        kind == Kind::cosine ? 0.5 * (1 + std::cos(std::numbers::pi * progress)) : 1 - progress;
    return min_ratio + (1 - min_ratio) * remaining;
  }

 private:
  int64_t decay_length() const {
    const int64_t after_warmup = std::max<int64_t>(1, total_steps - warmup_steps);
    if (kind != Kind::wsd) return after_warmup;
    const auto wanted = static_cast<int64_t>(std::llround(decay_fraction * static_cast<double>(total_steps)));
    return std::clamp<int64_t>(wanted, 1, after_warmup);
  }
};

}  // namespace headway
