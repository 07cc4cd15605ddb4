// One writer of a folder at a time: an flock on the file .lock in it, which names the writer's host and
// process.
//
// The kernel releases it when the process ends, however that happens, so no lock is ever stale. The file
// stays.
#pragma once

#include <filesystem>
#include <string>

namespace headway {

class FolderLock {
 public:
  /// The folder must exist. IoError that names the other writer where there is one, or where the file cannot
  /// be made or the file system has no locks.
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_ = -1;
};

/// The name of this machine; "unknown" where it has none.
std::string host_name();

}  // namespace headway
