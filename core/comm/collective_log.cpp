#include "core/comm/collective_log.h"

#include <fmt/format.h>

namespace headway {

uint64_t CollectiveLog::begin(const char* name, size_t bytes) {
  const uint64_t sequence = ++num_begun_;
  entries_[sequence % kRemembered] = {sequence, name, bytes, Clock::now(), {}};
  return sequence;
}

void CollectiveLog::end(uint64_t sequence) {
  Entry& done = entries_[sequence % kRemembered];
  if (done.sequence == sequence) done.ended = Clock::now();
}

std::string CollectiveLog::describe(uint64_t sequence) const {
  const Entry& found = entry(sequence);
  if (found.sequence != sequence) return fmt::format("collective number {}", sequence);
  return fmt::format("{} number {} ({} bytes)", found.name, sequence, found.bytes);
}

std::string CollectiveLog::dump() const {
  const Clock::time_point now = Clock::now();
  const auto seconds = [](Clock::duration time) { return std::chrono::duration<double>(time).count(); };
  std::string text;
  const uint64_t oldest = num_begun_ < kRemembered ? 1 : num_begun_ - kRemembered + 1;
  for (uint64_t sequence = oldest; sequence <= num_begun_; ++sequence) {
    const Entry& line = entry(sequence);
    const bool waiting = line.ended == Clock::time_point{};
    text +=
        fmt::format("  {} began {:.3f} s ago, {} {:.3f} s\n", describe(sequence), seconds(now - line.begun),
                    waiting ? "WAITING for" : "took", seconds((waiting ? now : line.ended) - line.begun));
  }
  return text;
}

}  // namespace headway
