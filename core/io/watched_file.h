// A file that is read piece by piece while a run is under way and must stay what it was at the start.
#pragma once

#include <cstdint>
#include <ctime>
#include <filesystem>
#include <span>

namespace headway {

class WatchedFile {
 public:
  /// Notes the size and the time of the last change. DataError for what is no file that can be read.
  explicit WatchedFile(std::filesystem::path);

  const std::filesystem::path& path() const { return path_; }
  int64_t size() const { return size_; }
  /// Fills `into` with the bytes from offset on. The file is opened for each piece, so that no number of
  /// files is too large, and read rather than mapped: one that is gone, was cut short or changed in size or
  /// time since it was noted is a DataError and not a signal.
  void read(int64_t offset, std::span<std::byte> into) const;
  /// DataError where the file is not what was noted.
  void require_unchanged() const;

 private:
  std::filesystem::path path_;
  int64_t size_ = 0;
  timespec changed_ = {};
};

}  // namespace headway
