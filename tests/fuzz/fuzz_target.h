// What the fuzz targets share. Each target is one file that defines LLVMFuzzerTestOneInput: an input is what
// a reader of ours would find in a file. Refusing it with an error that has an exit status of its own is
// right; whatever else ends the reading (another exception, a signal, a sanitizer, no end at all) is a
// finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "tests/support/scratch_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace headway {

inline std::string_view as_text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Whether the work was done and not refused. Other exceptions end the program.
inline bool is_accepted(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    if (error.code() == ExitCode::unexpected) throw;
    return false;
  }
  return true;
}

/// A folder that lasts as long as the program.
inline const ScratchFolder& scratch_folder() {
  static const ScratchFolder folder;
  return folder;
}

inline void write_file(const std::filesystem::path& path, std::string_view content) {
  std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
}

/// The pieces between zero bytes: an input that is several files, or a file and arguments.
inline std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> found;
  while (true) {
    const size_t end = text.find('\0');
    found.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return found;
    text.remove_prefix(end + 1);
  }
}

}  // namespace headway
