// Starting this program again as the ranks of one machine, and waiting for it.
#pragma once

#include <sys/types.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace headway {

/// Ranks of a run as a child process: mpirun with the options that this machine needs, or the program alone
/// for one rank. It saves and stops when this process dies.
class RankLauncher {
 public:
  /// `arguments` are the program's own. Output goes to the end of `log`, or through this
  /// process, whose stdout may go away: mpirun would not survive that.
  /// IoError when it cannot be started.
  RankLauncher(int ranks, const std::vector<std::string>& arguments,
               const std::optional<std::filesystem::path>& log);
  /// Removes what the ranks shared, which Open MPI leaves behind when it is killed.
  ~RankLauncher();
  RankLauncher(const RankLauncher&) = delete;
  RankLauncher& operator=(const RankLauncher&) = delete;

  /// The exit status, 128 + signal where a signal ended it. Passes a request to stop on until the ranks have
  /// ended, and calls `meanwhile` several times a second.
  int wait(const std::function<void()>& meanwhile = [] {});

 private:
  /// Output of ranks without a log: where it is read, and where it goes.
  struct Relay {
    int from;
    std::FILE* to;
  };
  /// Passes on what there is, or what comes within the time.
  void relay(int wait_ms);

  std::filesystem::path shared_folder_;  // of Open MPI's shared memory; empty for one rank
  pid_t child_ = 0;
  std::vector<Relay> relays_;
};

}  // namespace headway
