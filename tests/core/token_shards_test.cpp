// Token shards: what is written is read, and a file that changes under a reader is an error.
#include "core/io/token_shards.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <numeric>

#include "core/error.h"
#include "tests/support/scratch_folder.h"

namespace headway {
namespace {

namespace fs = std::filesystem;

class TokenShards : public testing::Test {
 protected:
  fs::path write(int64_t vocab_size) {
    TokenShardWriter writer(folder_.path(), "tokens", vocab_size, 1000);
    writer.write(ids_);
    writer.finish();
    return folder_ / "tokens-000000.bin";
  }
  /// Overwrites the file in place, as a copy over it does; its time is kept where asked.
  static void overwrite(const fs::path& path, int64_t token, int bytes, uint32_t id, bool keeps_time) {
    const auto time = fs::last_write_time(path);
    {
      std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
      file.seekp(1024 + token * bytes);
      file.write(reinterpret_cast<const char*>(&id), bytes);
    }
    fs::last_write_time(path, keeps_time ? time : time + std::chrono::seconds(1));
  }
  std::string error_of_reading(const TokenShard& shard) {
    std::vector<int32_t> ids(ids_.size());
    try {
      shard.read(0, ids);
    } catch (const DataError& error) {
      return error.what();
    }
    return "no error";
  }
  TokenShards() { std::iota(ids_.begin(), ids_.end(), 0); }

  ScratchFolder folder_;
  std::vector<int32_t> ids_ = std::vector<int32_t>(300);
};

TEST_F(TokenShards, WhatIsWrittenIsRead) {
  for (const int64_t vocab_size : {320, 100'000}) {
    const fs::path path = write(vocab_size);
    TokenShard shard(path);
    shard.scan(vocab_size);
    std::vector<int32_t> ids(ids_.size());
    shard.read(0, ids);
    EXPECT_EQ(ids, ids_);
    fs::remove(path);
  }
}

TEST_F(TokenShards, AnIdOutsideTheVocabularyIsNeverRead) {
  for (const int64_t vocab_size : {320, 100'000}) {
    const int bytes = vocab_size > 65'536 ? 4 : 2;
    for (const uint32_t bad : {bytes == 4 ? 0xffffffffu : 65'535u, static_cast<uint32_t>(vocab_size)}) {
      const fs::path path = write(vocab_size);
      TokenShard shard(path);
      shard.scan(vocab_size);
      overwrite(path, 217, bytes, bad, true);
      EXPECT_NE(error_of_reading(shard).find("token 217 has id"), std::string::npos)
          << error_of_reading(shard);
      fs::remove(path);
    }
  }
}

TEST_F(TokenShards, AFileThatChangedIsNoticed) {
  const fs::path path = write(320);
  TokenShard shard(path);
  shard.scan(320);
  overwrite(path, 5, 2, 7, false);
  EXPECT_NE(error_of_reading(shard).find("was changed while in use"), std::string::npos);
}

TEST_F(TokenShards, AUsedFolderIsRefused) {
  const fs::path path = write(320);
  try {
    TokenShardWriter(folder_.path(), "tokens", 320, 1000);
    FAIL() << "the writer began beside older shards";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("tokens-000000.bin holds token shards already"),
              std::string::npos);
  }
  EXPECT_THROW(TokenShardWriter(folder_.path(), "others", 320, 1000), ConfigError);
  for (const char* prefix : {"../evil", "a/b", ".hidden", ""})
    EXPECT_THROW(TokenShardWriter(folder_ / "new", prefix, 320, 1000), ConfigError) << prefix;
}

}  // namespace
}  // namespace headway
