// Files of token ids, in the layout llm.c reads and writes: a header of 256 int32 (magic, version, count,
// zeros), then the ids, 16 bits each (magic 20240520, version 1) or 32 bits (magic 20240801, version 7),
// little-endian.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/io/atomic_file.h"
#include "core/io/watched_file.h"

namespace headway {

class TokenShard {
 public:
  /// Opens and reads the header. DataError naming file, field, value and expectation when header and size
  /// disagree.
  explicit TokenShard(std::filesystem::path);

  const std::filesystem::path& path() const { return file_.path(); }
  int64_t num_tokens() const { return num_tokens_; }
  int bytes_per_token() const { return bytes_per_token_; }
  /// Ids from offset on. A file that was changed since then, in its size, its time or an id outside the
  /// vocabulary, is a DataError and not a signal or a wild index.
  void read(int64_t offset, std::span<int32_t> ids) const;
  /// Reads every id; DataError naming the first one that is not in 0 .. vocab_size-1, here and in what read()
  /// reads from now on. Returns a digest of all.
  std::string scan(int64_t vocab_size);
  /// The largest id that scan() met; -1 before scan(), and for a shard without tokens.
  int64_t largest_id() const { return largest_id_; }

 private:
  void check_ids(int64_t offset, std::span<const int32_t> ids) const;

  WatchedFile file_;
  int64_t num_tokens_ = 0;
  int bytes_per_token_ = 2;
  int64_t vocab_size_ = std::numeric_limits<int32_t>::max();
  int64_t largest_id_ = -1;
};

/// Writes shards folder/<prefix>-000000.bin, ... of at most tokens_per_shard ids, each by temporary and
/// rename.
class TokenShardWriter {
 public:
  /// vocab_size decides the width of the ids. ConfigError where the folder holds token shards already, or the
  /// prefix begins no name of a file.
  TokenShardWriter(std::filesystem::path folder, std::string prefix, int64_t vocab_size,
                   int64_t tokens_per_shard);
  /// Goes to disk at once.
  void write(std::span<const int32_t> ids);
  /// Ends the last shard. IoError as from write().
  void finish();
  /// Tokens written so far, in all shards.
  int64_t num_tokens() const { return num_tokens_ + (shard_ ? shard_->num_tokens : 0); }
  /// Number of finished shards.
  int num_shards() const { return num_shards_; }

 private:
  struct Shard {
    explicit Shard(const std::filesystem::path&);
    AtomicFile file;
    std::ofstream out;
    int64_t num_tokens = 0;
  };
  /// Writes the header with the number of tokens so far.
  void write_header();
  void write_bytes(std::span<const std::byte>);
  void require_written() const;

  std::filesystem::path folder_;
  std::string prefix_;
  bool is_wide_;
  int64_t tokens_per_shard_;
  std::unique_ptr<Shard> shard_;  // the one that is being written, or null
  int64_t num_tokens_ = 0;        // in finished shards
  int num_shards_ = 0;
};

/// True when the file begins with the magic of a token shard.
bool is_token_shard(const std::filesystem::path&);
/// Several lines about a token shard, for people.
std::string describe_token_shard(const std::filesystem::path&);

}  // namespace headway
