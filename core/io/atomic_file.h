// A file that appears whole or not at all: written under a temporary name beside its own, fsynced, renamed.
//
// The temporary of "step-5.h5" written by process 123 is ".step-5.h5.tmp.123". As long as it may exist its
// writer shares an flock on the folder, which the kernel releases with the process: whoever gets that lock
// alone knows that all temporaries in the folder are leftovers of dead writers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace headway {

class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  /// Deletes the temporary file unless it was committed.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Where to write.
  const std::filesystem::path& temporary() const { return temporary_; }
  /// Makes the written and closed file durable under its own name, replacing an older one. IoError otherwise.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int folder_ = -1;  // the lock; -1 where the folder cannot be opened, which writing finds out
  bool committed_ = false;
};

/// text to path as an AtomicFile. IoError naming the path.
void write_file_atomically(const std::filesystem::path&, std::string_view text);

/// IoError unless the file system of the folder has room for `bytes` more; `what` names what needs them.
void require_free_space(const std::filesystem::path& folder, uint64_t bytes, const std::string& what);

/// Deletes the temporaries in a folder that no living process writes, and returns their names. None where
/// some process is writing there at this moment.
std::vector<std::string> remove_abandoned_temporaries(const std::filesystem::path& folder);

}  // namespace headway
