// Work on a file that may come from a stranger, in a process of its own with limits: whatever the bytes make
// a library do (crash, spin, eat memory) ends that process and not this one. It is no sandbox against an
// attacker.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace headway {

struct ChildLimits {
  uint64_t cpu_seconds = 30;
  uint64_t wall_seconds = 120;
  /// On top of what this process has mapped already.
  uint64_t extra_memory_bytes = uint64_t{1} << 30;
};

/// What work() returns, computed in a forked child. An exception there comes back as a CheckpointError with
/// its message, and so does the end of the child by a signal or a limit; IoError when no process can be made.
/// Call it before other threads exist.
std::string run_in_limited_child(const ChildLimits&, const std::function<std::string()>& work);

/// The same for the reading of a file: with limits for its size, and a message that names it.
std::string read_in_limited_child(const std::filesystem::path& file, uint64_t file_bytes,
                                  const std::function<std::string()>& work);

}  // namespace headway
