#include "core/io/scratch_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "core/error.h"

namespace headway {
namespace {

std::string scratch_folder() {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::temp_directory_path(error);
  HEADWAY_CHECK(!error, IoError,
                fmt::format("there is no folder for temporary files: {}: expected one in TMPDIR or /tmp",
                            error.message()));
  return folder.string();
}

[[noreturn]] void fail_to_write() {
  const std::string reason = std::strerror(errno);
  throw IoError(fmt::format("cannot write a temporary file in {}: {}; TMPDIR can name another folder",
                            scratch_folder(), reason));
}

Descriptor make_file() {
  std::string name = scratch_folder() + "/headway-XXXXXX";
  Descriptor file(mkostemp(name.data(), O_CLOEXEC));
  if (!file.is_open() || unlink(name.c_str()) != 0) fail_to_write();
  return file;
}

}  // namespace

ScratchFile ScratchFile::of_process(int64_t pid, int64_t descriptor) {
  ScratchFile scratch;
  if (descriptor < 0) return scratch;
  const std::string path = fmt::format("/proc/{}/fd/{}", pid, descriptor);
  scratch.file_ = Descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status = {};
  HEADWAY_CHECK(
      scratch.file_.is_open() && fstat(scratch.file_.get(), &status) == 0, IoError,
      fmt::format("cannot read the temporary file {} of another rank: {}", path, std::strerror(errno)));
  scratch.size_ = status.st_size;
  return scratch;
}

void ScratchFile::append(std::span<const std::byte> bytes) {
  if (!file_.is_open()) file_ = make_file();
  while (!bytes.empty()) {
    const ssize_t written = pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(size_));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_to_write();
    size_ += written;
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void ScratchFile::read(int64_t offset, std::span<std::byte> into) const {
  const int64_t got = file_.read_at(offset, into);
  HEADWAY_CHECK(got == static_cast<int64_t>(into.size()), IoError,
                fmt::format("cannot read a temporary file: {}",
                            got < 0 ? std::strerror(errno) : "it has been cut short"));
}

}  // namespace headway
