// What stands in a file's place.
#pragma once

#include <filesystem>
#include <system_error>

namespace headway {

/// Whether the path leads to something else than a regular file: a pipe, a device, a folder. Reading a pipe
/// could wait for ever, and a device may never end.
inline bool is_no_regular_file(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  return std::filesystem::exists(status) && !std::filesystem::is_regular_file(status);
}

/// Whether nothing at all stands there, not even a link that leads nowhere. What cannot be looked at is not
/// absent.
inline bool is_absent(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::symlink_status(path, error).type() == std::filesystem::file_type::not_found;
}

}  // namespace headway
