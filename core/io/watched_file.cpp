#include "core/io/watched_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/io/descriptor.h"

namespace headway {

WatchedFile::WatchedFile(std::filesystem::path path) : path_(std::move(path)) {
  struct stat status = {};
  HEADWAY_CHECK(stat(path_.c_str(), &status) == 0, DataError,
                fmt::format("cannot read {}: {}", path_.string(), std::strerror(errno)));
  HEADWAY_CHECK(S_ISREG(status.st_mode), DataError,
                fmt::format("cannot read {}: expected an ordinary file", path_.string()));
  size_ = status.st_size;
  changed_ = status.st_mtim;
}

void WatchedFile::read(int64_t offset, std::span<std::byte> into) const {
  // Without O_NONBLOCK a pipe in the file's place would be waited for.
  const Descriptor file(open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  HEADWAY_CHECK(file.is_open(), DataError,
                fmt::format("cannot read {}: {}", path_.string(), std::strerror(errno)));
  const int64_t got = file.read_at(offset, into);
  const std::string reason = got < 0 ? std::strerror(errno) : "it ends too early";
  require_unchanged();  // first: a change explains the rest
  HEADWAY_CHECK(got == static_cast<int64_t>(into.size()), DataError,
                fmt::format("cannot read {}: {}", path_.string(), reason));
}

void WatchedFile::require_unchanged() const {
  struct stat now = {};
  const bool is_same = stat(path_.c_str(), &now) == 0 && S_ISREG(now.st_mode) && now.st_size == size_ &&
                       now.st_mtim.tv_sec == changed_.tv_sec && now.st_mtim.tv_nsec == changed_.tv_nsec;
  HEADWAY_CHECK(is_same, DataError, fmt::format("{}: the file was changed while in use", path_.string()));
}

}  // namespace headway
