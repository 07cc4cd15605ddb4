// The folder of one run: runs/<name>/ with its recipe, logs, metrics, samples and checkpoints.
#pragma once

#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>

namespace headway {

/// Whether a used folder may be continued, or emptied first.
enum class UsedFolder : uint8_t { refuse, resume, replace };

class RunFolder {
 public:
  /// Creates folder and its subfolders. ConfigError when it holds a run already and `used` is refuse; replace
  /// deletes what a run writes (never anything else); IoError when it cannot be written.
  RunFolder(std::filesystem::path folder, UsedFolder used);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return folder_; }
  std::filesystem::path checkpoints() const { return folder_ / "checkpoints"; }

  /// Prints a line on stdout and appends it to log.txt.
  void say(std::string_view line);
  /// Writes a small file, whole or not at all.
  void write_text(std::string_view name, std::string_view text) const;

 private:
  std::filesystem::path folder_;
  std::FILE* log_ = nullptr;
};

}  // namespace headway
