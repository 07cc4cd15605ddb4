// Where the time goes: seconds and calls of every operation while a Profile is alive.
//
// A profiled stream waits after each operation, so the times are those of the device and the program as a
// whole is slower where it would have overlapped.
#pragma once

#include <chrono>
#include <string_view>
#include <vector>

#include "core/backend.h"
#include "core/stream.h"

namespace headway {

class Profile {
 public:
  struct Entry {
    std::string_view name;
    int64_t calls = 0;
    double seconds = 0;
  };

  /// Collects from now on what the calling thread launches; one Profile at a time in a thread.
  Profile();
  ~Profile();
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;

  /// The most expensive first.
  std::vector<Entry> entries() const;
  /// Of this thread, or null.
  static Profile*& current();

 private:
  friend class ProfileRange;
  void add(std::string_view name, double seconds);

  std::vector<Entry> entries_;
};

/// Adds its own lifetime to the thread's Profile, if there is one, and shows it to NVIDIA's profilers.
class ProfileRange {
 public:
  /// The name must outlive the Profile.
  ProfileRange(const char* name, Stream& stream) : name_(name), stream_(stream) {
    begin_range(name);
    if (Profile::current()) start_ = std::chrono::steady_clock::now();
  }
  ~ProfileRange() {
    if (Profile::current()) end();
    end_range();
  }
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;

 private:
  void end();

  const char* name_;
  Stream& stream_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace headway
