// The folder of one run: runs/<name>/ with its recipe, logs, metrics, samples and checkpoints.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "core/io/folder_lock.h"

namespace headway {

/// Whether a used folder may be continued, or emptied first.
enum class UsedFolder : uint8_t { refuse, resume, replace };

/// The folder, locked. Taking it changes nothing in it, so that a start that fails later leaves it as it was:
/// clear(), then the run's record, then open().
class RunFolder {
 public:
  /// Makes the folder where it is missing. IoError when another process has it, or it cannot be written.
  /// ConfigError when it holds a run already and `used` is refuse, or holds something else where `used` is
  /// replace.
  RunFolder(std::filesystem::path folder, UsedFolder used);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return folder_; }
  std::filesystem::path checkpoints() const { return folder_ / "checkpoints"; }

  /// Where `used` is replace: deletes what a run writes, its record last, and never anything else.
  void clear() const;
  /// Makes the subfolders, removes temporary files of dead writers and opens the log.
  void open();

  /// After open(): prints a line on stdout and appends it to log.txt; goes on where one of them cannot be
  /// written.
  void say(std::string_view line);
  /// Writes a small file, whole or not at all.
  void write_text(std::string_view name, std::string_view text) const;

 private:
  std::filesystem::path folder_;
  UsedFolder used_;
  std::unique_ptr<FolderLock> lock_;
  std::FILE* log_ = nullptr;
};

}  // namespace headway
