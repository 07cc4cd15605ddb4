// Text files: plain and compressed ones are read, what is no text is refused by name.
#include "core/text/text_file.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>

#include "core/error.h"
#include "tests/support/scratch_folder.h"

namespace headway {
namespace {

constexpr int64_t kAll = INT64_MAX;

class TextFile : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return (folder_ / name).string();
  }
  std::string write_gzip(const std::string& name, const std::string& content) {
    const std::string path = (folder_ / name).string();
    gzFile file = gzopen(path.c_str(), "ab");  // a second time: another member
    gzwrite(file, content.data(), static_cast<unsigned>(content.size()));
    gzclose(file);
    return path;
  }
  static std::string error_of(const std::string& path) {
    try {
      read_text_file(path, "data.text", kAll);
    } catch (const DataError& error) {
      return error.what();
    }
    return "no error";
  }
  void expect_error(const std::string& path, const std::string& words) {
    EXPECT_NE(error_of(path).find(words), std::string::npos) << error_of(path);
    EXPECT_NE(error_of(path).find(path), std::string::npos) << error_of(path);
  }

  ScratchFolder folder_;
  // Longer than one piece of either reader, and hard to compress.
  std::string text_ = [] {
    std::string text;
    for (uint32_t i = 0, x = 1; i < 300'000; ++i, x = x * 1664525 + 1013904223)
      text += std::to_string(x) + "\n";
    return text;
  }();
};

TEST_F(TextFile, PlainTextIsReadAsItIs) {
  for (const std::string& text :
       {std::string(), std::string("a"), std::string("\xe4 is latin, not UTF-8"), text_})
    EXPECT_EQ(read_text_file(write("a.txt", text), "data.text", kAll), text);
}

TEST_F(TextFile, AsMuchIsReadAsIsAsked) {
  const std::string plain = write("a.txt", text_), gzip = write_gzip("a.gz", text_);
  for (const int64_t bytes : {0, 1, 1000, 1 << 20, (1 << 20) + 1})
    for (const std::string& path : {plain, gzip})
      EXPECT_EQ(read_text_file(path, "data.text", bytes), text_.substr(0, static_cast<size_t>(bytes)));
}

TEST_F(TextFile, GzipIsDecompressed) {
  const std::string path = write_gzip("a.gz", text_);
  EXPECT_EQ(read_text_file(path, "data.text", kAll), text_);
  write_gzip("a.gz", "and more");
  EXPECT_EQ(read_text_file(path, "data.text", kAll), text_ + "and more");
}

TEST_F(TextFile, ZstdIsDecompressedOrRefusedWithASentence) {
  const std::string path = write("a.txt", text_);
  if (std::system(("zstd -q " + path + " 2>/dev/null").c_str()) != 0)
    GTEST_SKIP() << "zstd's program is missing";
  try {
    EXPECT_EQ(read_text_file(path + ".zst", "data.text", kAll), text_);
    EXPECT_EQ(read_text_file(path + ".zst", "data.text", 1000), text_.substr(0, 1000));
    EXPECT_EQ(read_text_file(path + ".zst", "data.text", 2), text_.substr(0, 2));
    // As long as the pieces that zstd gives out.
    const std::string even = text_.substr(0, 2 << 17), even_path = write("even.txt", even);
    ASSERT_EQ(std::system(("zstd -q " + even_path).c_str()), 0);
    EXPECT_EQ(read_text_file(even_path + ".zst", "data.text", kAll), even);
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("install libzstd-dev"), std::string::npos) << error.what();
  }
}

TEST_F(TextFile, DamagedFilesAreRefused) {
  const std::string whole = [&] {
    std::ifstream in(write_gzip("a.gz", text_), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }();
  expect_error(write("cut.gz", whole.substr(0, whole.size() / 2)), "cannot read");
  std::string flipped = whole;
  flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 0x55);
  expect_error(write("flipped.gz", flipped), "cannot read");
  expect_error((folder_ / "absent.txt").string(), "No such file");
  expect_error(write("cut.zst", "\x28\xb5\x2f\xfd"), ".zst");
}

TEST_F(TextFile, WhatIsNoTextIsNamed) {
  const std::string zero(1, '\0');
  expect_error(write("a", "PAR1" + zero), "looks like a Parquet file");
  expect_error(write("a",
                     "\x7f"
                     "ELF\x02" +
                         zero),
               "looks like a program");
  expect_error(write("a",
                     "\xff\xfe"
                     "a" +
                         zero),
               "looks like UTF-16 text, expected UTF-8");
  expect_error(write("a", "some text and " + zero), "looks like binary data");
  expect_error(write_gzip("a.tar.gz", "name" + std::string(253, '\0') + "ustar"), "looks like a tar archive");
}

}  // namespace
}  // namespace headway
