#include "core/io/token_shards.h"

#include <fmt/format.h>

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

}  // namespace

TokenShard::TokenShard(fs::path path) : file_(std::move(path)) {
  const std::string name = file_.path().string();
  HEADWAY_CHECK(
      file_.size() >= kHeaderBytes, DataError,
      fmt::format("{}: {} bytes where a token shard has a header of {}", name, file_.size(), kHeaderBytes));
  std::array<int32_t, kHeaderInts> header{};
  file_.read(0, std::as_writable_bytes(std::span(header)));
  const bool is_wide = header[0] == kMagic32;
  HEADWAY_CHECK(
      header[0] == kMagic16 || is_wide, DataError,
      fmt::format("{}: magic {} where a token shard has {} or {}", name, header[0], kMagic16, kMagic32));
  const int32_t version = is_wide ? kVersion32 : kVersion16;
  HEADWAY_CHECK(header[1] == version, DataError,
                fmt::format("{}: version {} where {} is expected", name, header[1], version));
  num_tokens_ = header[2];
  bytes_per_token_ = is_wide ? 4 : 2;
  const int64_t expected = kHeaderBytes + num_tokens_ * bytes_per_token_;
  HEADWAY_CHECK(num_tokens_ >= 0 && file_.size() == expected, DataError,
                fmt::format("{}: {} bytes where a header of {} tokens needs {}", name, file_.size(),
                            num_tokens_, expected));
}

void TokenShard::read(int64_t offset, std::span<int32_t> ids) const {
  const int64_t at = kHeaderBytes + offset * bytes_per_token_;
  if (bytes_per_token_ == 4) {
    file_.read(at, std::as_writable_bytes(ids));
  } else {
    std::vector<uint16_t> narrow(ids.size());
    file_.read(at, std::as_writable_bytes(std::span(narrow)));
    std::ranges::copy(narrow, ids.begin());
  }
  check_ids(offset, ids);
}

void TokenShard::check_ids(int64_t offset, std::span<const int32_t> ids) const {
  const auto limit = static_cast<uint32_t>(vocab_size_);
  uint32_t largest = 0;  // without branches, so that it costs nothing beside the copy; below zero is large
  for (const int32_t id : ids) largest = std::max(largest, static_cast<uint32_t>(id));
  if (largest < limit) return;
  const auto bad = std::ranges::find_if(ids, [&](int32_t id) { return static_cast<uint32_t>(id) >= limit; });
  throw DataError(fmt::format("{}: token {} has id {}, outside the vocabulary of {}", path().string(),
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
    for (const int32_t id : ids) largest_id_ = std::max<int64_t>(largest_id_, id);
    digests += xxh3_64(ids.data(), ids.size() * sizeof(int32_t));
  }
  return xxh3_64(digests.data(), digests.size());
}

TokenShardWriter::TokenShardWriter(fs::path folder, std::string prefix, int64_t vocab_size,
                                   int64_t tokens_per_shard)
    : folder_(std::move(folder)),
      prefix_(std::move(prefix)),
      is_wide_(vocab_size > std::numeric_limits<uint16_t>::max() + 1),
      tokens_per_shard_(tokens_per_shard) {
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

TokenShardWriter::Shard::Shard(const fs::path& path) : file(path), out(file.temporary(), std::ios::binary) {}

void TokenShardWriter::write(std::span<const int32_t> ids) {
  while (!ids.empty()) {
    if (!shard_) {
      shard_ = std::make_unique<Shard>(folder_ / fmt::format("{}-{:06}.bin", prefix_, num_shards_));
      write_header();
    }
    const auto count = std::min(static_cast<int64_t>(ids.size()), tokens_per_shard_ - shard_->num_tokens);
    const std::span<const int32_t> part = ids.first(static_cast<size_t>(count));
    if (is_wide_) {
      write_bytes(std::as_bytes(part));
    } else {
      const std::vector<uint16_t> narrow(part.begin(), part.end());
      write_bytes(std::as_bytes(std::span(narrow)));
    }
    shard_->num_tokens += count;
    ids = ids.subspan(part.size());
    if (shard_->num_tokens == tokens_per_shard_) finish();
  }
}

void TokenShardWriter::finish() {
  if (!shard_) return;
  shard_->out.seekp(0);
  write_header();
  shard_->out.close();
  require_written();
  shard_->file.commit();
  num_tokens_ += shard_->num_tokens;
  ++num_shards_;
  shard_.reset();
}

void TokenShardWriter::write_header() {
  std::array<int32_t, kHeaderInts> header{};
  header[0] = is_wide_ ? kMagic32 : kMagic16;
  header[1] = is_wide_ ? kVersion32 : kVersion16;
  header[2] = static_cast<int32_t>(shard_->num_tokens);
  write_bytes(std::as_bytes(std::span(header)));
}

void TokenShardWriter::write_bytes(std::span<const std::byte> bytes) {
  shard_->out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  require_written();
}

void TokenShardWriter::require_written() const {
  HEADWAY_CHECK(shard_->out, IoError,
                fmt::format("cannot write {}: {}", shard_->file.temporary().string(), std::strerror(errno)));
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
