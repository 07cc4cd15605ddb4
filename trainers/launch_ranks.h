// Starting this program again as the ranks of one machine, and waiting for it.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace headway {

/// Ranks of a run as a child process: mpirun with the options that this machine needs, or the program alone
/// for one rank. It saves and stops when this process dies.
class RankLauncher {
 public:
  /// `arguments` are the program's own. Output goes to the end of `log`, or where this process writes.
  /// IoError when it cannot be started.
  RankLauncher(int ranks, const std::vector<std::string>& arguments,
               const std::optional<std::filesystem::path>& log);
  /// Removes what the ranks shared, which Open MPI leaves behind when it is killed.
  ~RankLauncher();
  RankLauncher(const RankLauncher&) = delete;
  RankLauncher& operator=(const RankLauncher&) = delete;

  /// The exit status, 128 + signal where a signal ended it. Passes a request to stop on until the ranks have
  /// ended.
  int wait() const;

 private:
  std::filesystem::path shared_folder_;  // of Open MPI's shared memory; empty for one rank
  pid_t child_ = 0;
};

}  // namespace headway
