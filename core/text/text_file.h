// Text from files: as it is, or compressed by gzip or zstd.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace headway {

/// The first max_bytes of a file's text, decompressed where the file begins as gzip or zstd does. DataError,
/// with `key` in front, for a file that cannot be read, is damaged, or is no text: what holds a zero byte is
/// named by what it looks like.
std::string read_text_file(const std::filesystem::path&, std::string_view key, int64_t max_bytes);

/// The same of a zstd file, without a look at its content. DataError where this build cannot read zstd.
std::string read_zstd_file(const std::filesystem::path&, std::string_view key, int64_t max_bytes);

}  // namespace headway
