// Text from files: as it is, or compressed by gzip or zstd.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "core/text/tokenizer.h"

namespace headway {

enum class TextFormat : uint8_t { plain, gzip, zstd };

/// The format that the first bytes of a file tell. DataError, with `key` in front, for a file that cannot be
/// read.
TextFormat text_format(const std::filesystem::path&, std::string_view key);

/// Receives the next piece of a text, which need not end where a character does.
using TextSink = std::function<void(std::string_view piece)>;

/// Hands on the first max_bytes of a file's text piece by piece, decompressed where the file begins as gzip
/// or zstd does, so that no more than a piece is in memory. DataError, with `key` in front, for a file that
/// cannot be read, is damaged, or is no text: what holds a zero byte is named by what it looks like.
void read_text_file(const std::filesystem::path&, std::string_view key, int64_t max_bytes, const TextSink&);
/// The same as one text.
std::string read_text_file(const std::filesystem::path&, std::string_view key, int64_t max_bytes);

/// The same of a zstd file, without a look at its content. DataError where this build cannot read zstd.
void read_zstd_file(const std::filesystem::path&, std::string_view key, int64_t max_bytes, const TextSink&);

struct EncodedFile {
  int64_t num_bytes = 0;  // of its text
  std::string digest;     // of its text
};
/// Reads a file's text as read_text_file() does and hands on its ids, without an end of text: piece by piece
/// where the tokenizer encodes bytes, all at once where it needs the whole text.
EncodedFile encode_text_file(const std::filesystem::path&, std::string_view key, int64_t max_bytes,
                             const Tokenizer&, const std::function<void(std::span<const int32_t> ids)>&);

}  // namespace headway
