// The last collectives a rank took part in, kept so that a run that hangs can say where.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace headway {

class CollectiveLog {
 public:
  /// name is a literal. Returns the collective's number, counted from 1.
  uint64_t begin(const char* name, size_t bytes);
  void end(uint64_t sequence);
  uint64_t num_begun() const { return num_begun_; }
  /// "all_reduce number 17 (4096 bytes)"
  std::string describe(uint64_t sequence) const;
  /// One line per remembered collective, oldest first: when it started and how long it took or has waited.
  std::string dump() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Entry {
    uint64_t sequence = 0;
    const char* name = "";
    size_t bytes = 0;
    Clock::time_point begun;
    Clock::time_point ended;  // the epoch while it is under way
  };
  static constexpr uint64_t kRemembered = 64;
  const Entry& entry(uint64_t sequence) const { return entries_[sequence % kRemembered]; }

  uint64_t num_begun_ = 0;
  std::array<Entry, kRemembered> entries_;
};

}  // namespace headway
