#include "trainers/progress.h"

#include <fmt/format.h>

#include <cmath>

namespace headway {

std::string format_duration(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  return fmt::format("{}:{:02}:{:02}", total / 3600, total / 60 % 60, total % 60);
}

std::string format_count(double count) {
  if (count >= 1e9) return fmt::format("{:.1f}B", count / 1e9);
  if (count >= 1e6) return fmt::format("{:.1f}M", count / 1e6);
  if (count >= 1e3) return fmt::format("{:.1f}k", count / 1e3);
  return fmt::format("{:.0f}", count);
}

std::string with_thousands(int64_t number) {
  std::string digits = std::to_string(number);
  for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits;
}

std::string progress_line(const Progress& p) {
  return fmt::format("step {}/{} | loss {:.4f} | lr {:.1e} | gnorm {:.2f} | {} tok/s | {:.1f} GiB | eta {}",
                     p.step, p.last_step, p.loss, p.learning_rate, p.grad_norm,
                     format_count(p.tokens_per_second), p.peak_memory_gib, format_duration(p.seconds_left));
}

}  // namespace headway
