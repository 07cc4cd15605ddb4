#include "core/io/token_shards.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/io/digest.h"
#include "core/stop_signal.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

constexpr int32_t kMagic16 = 20240520, kVersion16 = 1;
constexpr int32_t kMagic32 = 20240801, kVersion32 = 7;
constexpr int64_t kHeaderInts = 256;
constexpr int64_t kHeaderBytes = kHeaderInts * static_cast<int64_t>(sizeof(int32_t));
constexpr int64_t kScanTokens = 1 << 20;

std::array<int32_t, kHeaderInts> read_header(const fs::path& path, int file) {
  std::array<int32_t, kHeaderInts> header{};
  const ssize_t got = pread(file, header.data(), static_cast<size_t>(kHeaderBytes), 0);
  HEADWAY_CHECK(got == kHeaderBytes, DataError,
                fmt::format("{}: {} bytes where a token shard has a header of {}", path.string(),
                            std::max<ssize_t>(got, 0), kHeaderBytes));
  return header;
}

}  // namespace

TokenShard::TokenShard(fs::path path) : path_(std::move(path)) {
  struct stat status = {};
  HEADWAY_CHECK(stat(path_.c_str(), &status) == 0 && S_ISREG(status.st_mode), DataError,
                fmt::format("{}: not a file that can be read", path_.string()));
  file_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  HEADWAY_CHECK(file_ >= 0, DataError, fmt::format("{}: {}", path_.string(), std::strerror(errno)));
  try {
    const auto header = read_header(path_, file_);
    const bool is_wide = header[0] == kMagic32;
    HEADWAY_CHECK(header[0] == kMagic16 || is_wide, DataError,
                  fmt::format("{}: magic {} where a token shard has {} or {}", path_.string(), header[0],
                              kMagic16, kMagic32));
    const int32_t version = is_wide ? kVersion32 : kVersion16;
    HEADWAY_CHECK(header[1] == version, DataError,
                  fmt::format("{}: version {} where {} is expected", path_.string(), header[1], version));
    num_tokens_ = header[2];
    bytes_per_token_ = is_wide ? 4 : 2;
    const int64_t expected = kHeaderBytes + num_tokens_ * bytes_per_token_;
    HEADWAY_CHECK(num_tokens_ >= 0 && status.st_size == expected, DataError,
                  fmt::format("{}: {} bytes where a header of {} tokens needs {}", path_.string(),
                              status.st_size, num_tokens_, expected));
    num_bytes_ = status.st_size;
    changed_ = status.st_mtim;
  } catch (...) {
    close(file_);
    throw;
  }
}

TokenShard::~TokenShard() {
  if (file_ >= 0) close(file_);
}

TokenShard::TokenShard(TokenShard&& other) noexcept
    : path_(std::move(other.path_)),
      file_(std::exchange(other.file_, -1)),
      num_tokens_(other.num_tokens_),
      bytes_per_token_(other.bytes_per_token_),
      vocab_size_(other.vocab_size_),
      changed_(other.changed_),
      num_bytes_(other.num_bytes_) {}

void TokenShard::read(int64_t offset, std::span<int32_t> ids) const {
  std::vector<std::byte> raw(ids.size() * static_cast<size_t>(bytes_per_token_));
  size_t done = 0;
  while (done < raw.size()) {
    const auto at = kHeaderBytes + offset * bytes_per_token_ + static_cast<int64_t>(done);
    const ssize_t got = pread(file_, raw.data() + done, raw.size() - done, at);
    if (got < 0 && errno == EINTR) continue;
    HEADWAY_CHECK(got > 0, DataError,
                  fmt::format("{}: the file ends before token {}: it was changed while in use",
                              path_.string(), offset + static_cast<int64_t>(ids.size()) - 1));
    done += static_cast<size_t>(got);
  }
  if (bytes_per_token_ == 2) {
    for (size_t i = 0; i < ids.size(); ++i) {
      uint16_t id = 0;
      std::memcpy(&id, raw.data() + 2 * i, sizeof(id));
      ids[i] = id;
    }
  } else if (!raw.empty()) {  // memcpy wants no null pointers, not even for zero bytes
    std::memcpy(ids.data(), raw.data(), raw.size());
  }
  check_ids(offset, ids);
  struct stat now = {};
  const bool is_same = fstat(file_, &now) == 0 && now.st_size == num_bytes_ &&
                       now.st_mtim.tv_sec == changed_.tv_sec && now.st_mtim.tv_nsec == changed_.tv_nsec;
  HEADWAY_CHECK(is_same, DataError, fmt::format("{}: the file was changed while in use", path_.string()));
}

void TokenShard::check_ids(int64_t offset, std::span<const int32_t> ids) const {
  const auto limit = static_cast<uint32_t>(vocab_size_);
  uint32_t largest = 0;  // without branches, so that it costs nothing beside the copy; below zero is large
  for (const int32_t id : ids) largest = std::max(largest, static_cast<uint32_t>(id));
  if (largest < limit) return;
  const auto bad = std::ranges::find_if(ids, [&](int32_t id) { return static_cast<uint32_t>(id) >= limit; });
  throw DataError(fmt::format("{}: token {} has id {}, outside the vocabulary of {}", path_.string(),
                              offset + (bad - ids.begin()), *bad, vocab_size_));
}

std::string TokenShard::scan(int64_t vocab_size) {
  vocab_size_ = vocab_size;
  std::string digests;
  std::vector<int32_t> ids;
  for (int64_t offset = 0; offset < num_tokens_; offset += kScanTokens) {
    throw_if_stop_requested();
    ids.resize(static_cast<size_t>(std::min(kScanTokens, num_tokens_ - offset)));
    read(offset, ids);
    digests += xxh3_64(ids.data(), ids.size() * sizeof(int32_t));
  }
  return xxh3_64(digests.data(), digests.size());
}

TokenShardWriter::TokenShardWriter(fs::path folder, std::string prefix, int64_t vocab_size,
                                   int64_t tokens_per_shard)
    : folder_(std::move(folder)),
      prefix_(std::move(prefix)),
      is_wide_(vocab_size > std::numeric_limits<uint16_t>::max() + 1),
      tokens_per_shard_(static_cast<size_t>(tokens_per_shard)) {
  HEADWAY_CHECK(
      !prefix_.empty() && prefix_.front() != '.' && prefix_.find('/') == std::string::npos, ConfigError,
      fmt::format("prefix \"{}\": expected the beginning of a file's name, without slashes and no dot in "
                  "front",
                  prefix_));
  std::error_code error;
  fs::create_directories(folder_, error);
  HEADWAY_CHECK(!error, IoError, fmt::format("cannot create {}: {}", folder_.string(), error.message()));
  fs::directory_iterator it(folder_, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    HEADWAY_CHECK(it->path().extension() != ".bin" || !is_token_shard(it->path()), ConfigError,
                  fmt::format("{} holds token shards already: choose another folder, or delete them",
                              it->path().string()));
  }
  HEADWAY_CHECK(!error, IoError, fmt::format("cannot read {}: {}", folder_.string(), error.message()));
}

void TokenShardWriter::write(std::span<const int32_t> ids) {
  pending_.insert(pending_.end(), ids.begin(), ids.end());
  size_t written = 0;
  while (pending_.size() - written >= tokens_per_shard_) {
    write_shard(std::span(pending_).subspan(written, tokens_per_shard_));
    written += tokens_per_shard_;
  }
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(written));
}

void TokenShardWriter::finish() {
  if (!pending_.empty()) write_shard(pending_);
  pending_.clear();
}

void TokenShardWriter::write_shard(std::span<const int32_t> ids) {
  AtomicFile file(folder_ / fmt::format("{}-{:06}.bin", prefix_, num_shards_));
  std::ofstream out(file.temporary(), std::ios::binary);
  std::array<int32_t, kHeaderInts> header{};
  header[0] = is_wide_ ? kMagic32 : kMagic16;
  header[1] = is_wide_ ? kVersion32 : kVersion16;
  header[2] = static_cast<int32_t>(ids.size());
  out.write(reinterpret_cast<const char*>(header.data()), kHeaderBytes);
  if (is_wide_) {
    out.write(reinterpret_cast<const char*>(ids.data()), static_cast<std::streamsize>(ids.size_bytes()));
  } else {
    const std::vector<uint16_t> narrow(ids.begin(), ids.end());
    out.write(reinterpret_cast<const char*>(narrow.data()), static_cast<std::streamsize>(narrow.size() * 2));
  }
  out.close();
  HEADWAY_CHECK(out, IoError,
                fmt::format("cannot write {}: {}", file.temporary().string(), std::strerror(errno)));
  file.commit();
  num_tokens_ += static_cast<int64_t>(ids.size());
  ++num_shards_;
}

bool is_token_shard(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  int32_t magic = 0;
  in.read(reinterpret_cast<char*>(&magic), sizeof(magic));
  return in && (magic == kMagic16 || magic == kMagic32);
}

std::string describe_token_shard(const fs::path& path) {
  TokenShard shard(path);
  std::vector<int32_t> ids(static_cast<size_t>(std::min<int64_t>(shard.num_tokens(), 16)));
  shard.read(0, ids);
  const std::string digest = shard.scan(std::numeric_limits<int32_t>::max());
  return fmt::format("{}: token shard\n  tokens  {}\n  width   {} bits\n  digest  {}\n  first   {}\n",
                     path.string(), shard.num_tokens(), 8 * shard.bytes_per_token(), digest,
                     fmt::join(ids, " "));
}

}  // namespace headway
