#include "core/io/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "core/error.h"
#include "core/io/regular_file.h"

namespace headway {
namespace {

constexpr std::string_view kInfix = ".tmp.";

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

int open_folder(const std::filesystem::path& folder) {
  return open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

bool is_temporary(std::string_view name) {
  const size_t infix = name.rfind(kInfix);
  if (!name.starts_with('.') || infix == std::string_view::npos) return false;
  const std::string_view process = name.substr(infix + kInfix.size());
  return !process.empty() && process.find_first_not_of("0123456789") == std::string_view::npos;
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

/// What a rename to this path would replace: behind a link, the file that it leads to. A device or a pipe
/// must not give way to a file.
std::filesystem::path target_of(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path target = fs::is_symlink(path, ignored) ? fs::weakly_canonical(path, ignored) : path;
  HEADWAY_CHECK(!is_no_regular_file(target), IoError,
                fmt::format("cannot write {}: it exists and is no regular file", path.string()));
  return target;
}

}  // namespace

AtomicFile::AtomicFile(const std::filesystem::path& path)
    : path_(target_of(path)),
      temporary_(folder_of(path_) / fmt::format(".{}{}{}", path_.filename().string(), kInfix, getpid())),
      folder_(open_folder(folder_of(path_))) {
  while (folder_ >= 0 && flock(folder_, LOCK_SH) != 0 && errno == EINTR) continue;
}

AtomicFile::~AtomicFile() {
  std::error_code ignored;
  if (!committed_) std::filesystem::remove(temporary_, ignored);
  if (folder_ >= 0) close(folder_);
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

std::vector<std::string> remove_abandoned_temporaries(const std::filesystem::path& folder) {
  std::vector<std::string> removed;
  const int descriptor = open_folder(folder);
  if (descriptor < 0) return removed;
  if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) {
    std::vector<std::filesystem::path> temporaries;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error))
      if (is_temporary(entry.path().filename().string())) temporaries.push_back(entry.path());
    for (const auto& path : temporaries)
      if (std::filesystem::remove(path, error)) removed.push_back(path.filename().string());
  }
  close(descriptor);
  return removed;
}

}  // namespace headway
