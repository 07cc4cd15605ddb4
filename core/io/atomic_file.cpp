#include "core/io/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "core/error.h"

namespace headway {
namespace {

constexpr std::string_view kInfix = ".tmp.";

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

void sync(const std::filesystem::path& path, int flags) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
  HEADWAY_CHECK(
      descriptor >= 0, IoError,
      fmt::format("{}: cannot open it to make it durable: {}", path.string(), std::strerror(errno)));
  const int status = fsync(descriptor);
  const int reason = errno;
  close(descriptor);
  HEADWAY_CHECK(status == 0, IoError,
                fmt::format("{}: fsync failed: {}", path.string(), std::strerror(reason)));
}

}  // namespace

AtomicFile::AtomicFile(const std::filesystem::path& path)
    : path_(path),
      temporary_(folder_of(path) / fmt::format(".{}{}{}", path.filename().string(), kInfix, getpid())) {}

AtomicFile::~AtomicFile() {
  std::error_code ignored;
  if (!committed_) std::filesystem::remove(temporary_, ignored);
}

void AtomicFile::commit() {
  sync(temporary_, 0);
  HEADWAY_CHECK(std::rename(temporary_.c_str(), path_.c_str()) == 0, IoError,
                fmt::format("{}: cannot rename {} to it: {}", path_.string(), temporary_.filename().string(),
                            std::strerror(errno)));
  committed_ = true;
  sync(folder_of(path_), O_DIRECTORY);
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile atomic(path);
  std::FILE* file = std::fopen(atomic.temporary().c_str(), "wb");
  const bool written = file && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  int reason = errno;
  const bool closed = file && std::fclose(file) == 0;  // flushes: a full disk may show here only
  if (written && !closed) reason = errno;
  HEADWAY_CHECK(written && closed, IoError,
                fmt::format("cannot write {}: {}", path.string(), std::strerror(reason)));
  atomic.commit();
}

void require_free_space(const std::filesystem::path& folder, uint64_t bytes, const std::string& what) {
  struct statvfs status {};
  HEADWAY_CHECK(statvfs(folder.c_str(), &status) == 0, IoError,
                fmt::format("{}: cannot ask for its free space: {}", folder.string(), std::strerror(errno)));
  const uint64_t free_bytes = static_cast<uint64_t>(status.f_bavail) * status.f_frsize;
  constexpr double kMiB = 1024.0 * 1024.0;
  HEADWAY_CHECK(bytes <= free_bytes, IoError,
                fmt::format("{}: {} needs {:.1f} MiB, but the disk has {:.1f} MiB left", folder.string(),
                            what, static_cast<double>(bytes) / kMiB, static_cast<double>(free_bytes) / kMiB));
}

bool is_abandoned_temporary(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  const size_t infix = name.rfind(kInfix);
  if (!name.starts_with('.') || infix == std::string::npos) return false;
  const char* const end = name.data() + name.size();
  pid_t pid = 0;
  const auto parsed = std::from_chars(name.data() + infix + kInfix.size(), end, pid);
  if (parsed.ec != std::errc() || parsed.ptr != end || pid <= 0) return false;
  return pid == getpid() || (kill(pid, 0) != 0 && errno == ESRCH);
}

}  // namespace headway
