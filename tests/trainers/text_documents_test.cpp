// Text on disk gives the tokens and digests that it gave in memory, on any number of ranks.
#include "trainers/data/text_documents.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zlib.h>

#include <chrono>
#include <fstream>
#include <mutex>
#include <random>
#include <set>

#include "core/comm/local.h"
#include "core/comm/thread.h"
#include "core/error.h"
#include "core/io/digest.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/seed.h"
#include "trainers/data/text_corpus.h"

namespace headway {
namespace {

namespace fs = std::filesystem;

/// A tokenizer that needs more than a byte for an id: byte b becomes b + offset.
class Shifted final : public Tokenizer {
 public:
  explicit Shifted(int32_t offset) : offset_(offset) {}
  void encode(std::string_view text, std::vector<int32_t>& ids) const override {
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c) + offset_);
  }
  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids)
      if (id != end_of_text()) text += static_cast<char>(id - offset_);
    return text;
  }
  int32_t vocab_size() const override { return offset_ + 257; }
  int32_t end_of_text() const override { return offset_ + 256; }
  std::string name() const override { return "shifted"; }
  const std::string& definition() const override {
    static const std::string none;
    return none;
  }

 private:
  int32_t offset_;
};

template <class Id>
std::string digest_as(const std::vector<int32_t>& ids) {
  const std::vector<Id> stored(ids.begin(), ids.end());
  return xxh3_64(stored.data(), stored.size() * sizeof(Id));
}

class TextOnDisk : public testing::Test {
 protected:
  TextOnDisk() {
    recipe_.text = {(folder_ / "*").string()};
    recipe_.val_fraction = 0.3;
    std::mt19937 random(seed_);
    std::uniform_int_distribution<int> byte('a', 'z');
    for (size_t i = 0; i < 9; ++i) {
      std::string text(i == 4 ? 0 : random() % 3000, ' ');
      for (char& c : text) c = static_cast<char>(byte(random));
      texts_.push_back(text);
      write(i, text, i % 3 == 1);
    }
  }
  fs::path path(size_t i) const { return folder_ / std::to_string(i); }
  void write(size_t i, const std::string& text, bool is_compressed) const {
    if (!is_compressed) {
      std::ofstream(path(i), std::ios::binary) << text;
      return;
    }
    gzFile file = gzopen(path(i).c_str(), "wb");
    gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
    gzclose(file);
  }
  std::vector<int32_t> ids_of(size_t i, const Tokenizer& tokenizer) const {
    std::vector<int32_t> ids;
    tokenizer.encode(texts_[i], ids);
    ids.push_back(tokenizer.end_of_text());
    return ids;
  }
  std::shared_ptr<const TextDocuments> open(const Tokenizer& tokenizer) const {
    const auto comm = make_local_communicator();
    return open_documents(recipe_, tokenizer, *comm);
  }
  static std::vector<int32_t> all_of(const TextDocuments& documents) {
    std::vector<int32_t> ids(static_cast<size_t>(documents.num_tokens()));
    documents.read(0, ids);
    return ids;
  }
  void expect_tokens_and_digests(const Tokenizer& tokenizer) const {
    const auto documents = open(tokenizer);
    std::vector<int32_t> expected;
    for (size_t i = 0; i < texts_.size(); ++i) {
      EXPECT_EQ(documents->digest(i), xxh3_64(texts_[i].data(), texts_[i].size()));
      EXPECT_EQ(documents->range(i).begin, static_cast<int64_t>(expected.size()));
      const std::vector<int32_t> ids = ids_of(i, tokenizer);
      expected.insert(expected.end(), ids.begin(), ids.end());
    }
    ASSERT_EQ(all_of(*documents), expected);
    std::mt19937 random(seed_);
    for (int trial = 0; trial < 200; ++trial) {
      const size_t begin = random() % expected.size();
      std::vector<int32_t> ids(random() % (expected.size() - begin + 1));
      documents->read(static_cast<int64_t>(begin), ids);
      EXPECT_TRUE(std::equal(ids.begin(), ids.end(), expected.begin() + static_cast<std::ptrdiff_t>(begin)));
    }
  }

  uint32_t seed_ = fresh_seed();
  testing::ScopedTrace trace_{__FILE__, __LINE__, "seed " + std::to_string(seed_)};
  ScratchFolder folder_;
  DataRecipe recipe_;
  std::vector<std::string> texts_;
};

TEST_F(TextOnDisk, TokensAreThoseOfTheFilesWhateverTheirWidth) {
  expect_tokens_and_digests(*make_byte_tokenizer());
  expect_tokens_and_digests(Shifted(1000));
  expect_tokens_and_digests(Shifted(100'000));
}

TEST_F(TextOnDisk, SplitsAndTheirDigestsAreThoseOfTokensInMemory) {
  const auto expect_splits = [&](const Tokenizer& tokenizer, bool is_wide) {
    const auto corpus = open_text_corpus(recipe_, tokenizer, open(tokenizer));
    const auto documents = open(tokenizer);
    for (const Split split : {Split::train, Split::validation}) {
      std::vector<int32_t> ids(static_cast<size_t>(corpus->num_tokens(split)));
      corpus->read(split, 0, ids);
      const DataDigests digests = corpus->digests();
      EXPECT_EQ(split == Split::train ? digests.train : digests.held_out,
                is_wide ? digest_as<int32_t>(ids) : digest_as<uint16_t>(ids));
      EXPECT_GT(ids.size(), 0u);
      if (split != Split::validation) continue;
      EXPECT_EQ(corpus->bytes_per_token(),
                static_cast<double>(tokenizer.decode(ids).size()) / static_cast<double>(ids.size()));
    }
    EXPECT_EQ(corpus->num_tokens(Split::train) + corpus->num_tokens(Split::validation),
              documents->num_tokens());
  };
  for (const char* split : {"auto", "tail"}) {
    recipe_.split = split;
    expect_splits(*make_byte_tokenizer(), false);
    expect_splits(Shifted(1000), false);
    expect_splits(Shifted(100'000), true);
  }
}

TEST_F(TextOnDisk, NoMoreThanMaxBytesIsRead) {
  const auto bytes = make_byte_tokenizer();
  int64_t total = 0;
  for (const std::string& text : texts_) total += static_cast<int64_t>(text.size());
  for (recipe_.max_bytes = 1; recipe_.max_bytes < total + 100; recipe_.max_bytes += total / 17) {
    std::string expected;
    for (const std::string& text : texts_) expected += text;
    expected.resize(std::min(expected.size(), static_cast<size_t>(recipe_.max_bytes)));
    EXPECT_EQ(bytes->decode(all_of(*open(*bytes))), expected);
    const TextSize size = measure_text(recipe_, *bytes);
    EXPECT_EQ(size.in_files + size.packed, static_cast<double>(expected.size()));
  }
}

TEST_F(TextOnDisk, RanksOfAMachineShareOneTemporaryFile) {
  const auto bytes = make_byte_tokenizer();
  const std::vector<int32_t> expected = all_of(*open(*bytes));
  std::mutex mutex;
  std::set<std::string> names;
  run_as_threads(3, 20, [&](Communicator& comm) {
    const auto documents = open_documents(recipe_, *bytes, comm);
    EXPECT_EQ(all_of(*documents), expected);
    comm.barrier();
    const std::lock_guard lock(mutex);
    for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
      std::error_code closed;
      const std::string target = fs::read_symlink(entry, closed).string();
      if (target.find("/headway-") != std::string::npos && target.ends_with(" (deleted)"))
        names.insert(target);
    }
  });
  EXPECT_EQ(names.size(), 1u);
}

TEST_F(TextOnDisk, AFileThatChangedIsAnErrorAndNoSignal) {
  const auto bytes = make_byte_tokenizer();
  texts_[0] = std::string(5000, 'x');
  write(0, texts_[0], false);
  const auto expect_error = [&](const std::string& words, const std::function<void()>& change) {
    write(0, texts_[0], false);
    const auto documents = open(*bytes);
    change();
    std::vector<int32_t> ids(100);
    try {
      documents->read(4900, ids);
      ADD_FAILURE() << "read what is gone: " << words;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(path(0).string()), std::string::npos) << error.what();
    }
    fs::remove(path(0));
  };
  expect_error("changed while in use", [&] { fs::resize_file(path(0), 4990); });
  expect_error("changed while in use",
               [&] { fs::last_write_time(path(0), fs::last_write_time(path(0)) + std::chrono::seconds(1)); });
  expect_error("changed while in use", [&] { std::ofstream(path(0), std::ios::app) << "more"; });
  expect_error("No such file", [&] { fs::remove(path(0)); });
  expect_error("changed while in use", [&] {
    fs::remove(path(0));
    ASSERT_EQ(mkfifo(path(0).c_str(), 0600), 0);
  });
}

TEST_F(TextOnDisk, CompressedTextOutlivesItsFile) {
  const auto bytes = make_byte_tokenizer();
  const auto documents = open(*bytes);
  fs::remove(path(1));
  std::vector<int32_t> ids(static_cast<size_t>(documents->range(1).end - documents->range(1).begin));
  documents->read(documents->range(1).begin, ids);
  EXPECT_EQ(bytes->decode(ids), texts_[1]);
}

TEST_F(TextOnDisk, WhatCannotBeKeptIsASentence) {
  const auto bytes = make_byte_tokenizer();
  EXPECT_THROW(open(*make_symbol_tokenizer(300)), ConfigError);
  const char* const before = std::getenv("TMPDIR");
  const std::string kept = before ? before : "";
  setenv("TMPDIR", (folder_ / "nowhere").c_str(), 1);
  EXPECT_THROW(open(*bytes), IoError);
  recipe_.text = {path(0).string()};  // nothing to decompress
  EXPECT_EQ(bytes->decode(all_of(*open(*bytes))), texts_[0]);
  if (before)
    setenv("TMPDIR", kept.c_str(), 1);
  else
    unsetenv("TMPDIR");
}

}  // namespace
}  // namespace headway
