#include "core/io/folder_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace headway {
namespace {

/// What the lock's holder wrote into it.
std::string holder(int descriptor) {
  std::array<char, 512> text{};
  const ssize_t size = pread(descriptor, text.data(), text.size(), 0);
  return size > 0 ? std::string(text.data(), static_cast<size_t>(size)) : "another process";
}

}  // namespace

FolderLock::FolderLock(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / ".lock";
  descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  HEADWAY_CHECK(descriptor_ >= 0, IoError,
                fmt::format("cannot write {}: {}", path.string(), std::strerror(errno)));
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    const std::string other = reason == EWOULDBLOCK ? holder(descriptor_) : "";
    close(descriptor_);
    HEADWAY_CHECK(other.empty(), IoError,
                  fmt::format("{} is in use by {}: expected one writer at a time", folder.string(), other));
    throw IoError(fmt::format("cannot lock {}: {}", path.string(), std::strerror(reason)));
  }
  // The text only helps people: the lock holds without it, on a full disk too.
  const std::string self = fmt::format("process {} on {}", getpid(), host_name());
  (void)!ftruncate(descriptor_, 0);
  (void)!pwrite(descriptor_, self.data(), self.size(), 0);
}

FolderLock::~FolderLock() { close(descriptor_); }

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

}  // namespace headway
