#include "core/text/text_file.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

#include "core/error.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kZstd = "\x28\xb5\x2f\xfd"sv;

/// What a file that is no text may be, by how it begins.
struct Format {
  std::string_view magic, name;
};
constexpr Format kFormats[] = {
    {"PAR1"sv, "a Parquet file"},
    {"\x89HDF"sv, "an HDF5 file"},
    {"\x7f"
     "ELF"sv,
     "a program"},
    {"PK\x03\x04"sv, "a zip archive"},
    {"BZh"sv, "a bzip2 file"},
    {"\xfd"
     "7zXZ"sv,
     "an xz file"},
    {"%PDF"sv, "a PDF document"},
    {"\x89PNG"sv, "a PNG picture"},
    {"\xff\xd8\xff"sv, "a JPEG picture"},
    {"GGUF"sv, "a GGUF model"},
    {"\xff\xfe"sv, "UTF-16 text, expected UTF-8"},
    {"\xfe\xff"sv, "UTF-16 text, expected UTF-8"},
    {"\xd8\xd9\x34\x01"sv, "a token shard, which data.tokens reads"},
    {"\x01\xda\x34\x01"sv, "a token shard, which data.tokens reads"},
};

std::string name_of(std::string_view content) {
  constexpr size_t kTarMagicAt = 257;
  if (content.size() > kTarMagicAt && content.substr(kTarMagicAt).starts_with("ustar"))
    return "a tar archive";
  const auto found =
      std::ranges::find_if(kFormats, [&](const Format& format) { return content.starts_with(format.magic); });
  return found == std::end(kFormats) ? "binary data" : std::string(found->name);
}

bool is_zstd(const fs::path& path) {
  std::array<char, kZstd.size()> begin{};
  std::ifstream(path, std::ios::binary).read(begin.data(), begin.size());
  return std::string_view(begin.data(), begin.size()) == kZstd;
}

/// gzip, or a file as it is: zlib tells them apart.
std::string read_plain_or_gzip(const fs::path& path, std::string_view key, int64_t max_bytes) {
  errno = 0;
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  const auto fail = [&](const char* reason) {
    throw DataError(fmt::format("{}: cannot read {}: {}", key, path.string(), reason));
  };
  if (!file) fail(errno != 0 ? std::strerror(errno) : "out of memory");
  constexpr size_t kPiece = size_t{1} << 20;
  gzbuffer(file.get(), kPiece);
  std::string text;
  while (static_cast<int64_t>(text.size()) < max_bytes) {
    const size_t begin = text.size();
    text.resize(begin + std::min(kPiece, static_cast<size_t>(max_bytes) - begin));
    const int got = gzread(file.get(), text.data() + begin, static_cast<unsigned>(text.size() - begin));
    int error = Z_OK;
    const char* const reason = gzerror(file.get(), &error);
    if (got < 0 || (error != Z_OK && error != Z_STREAM_END))
      fail(error == Z_ERRNO ? std::strerror(errno) : reason);
    text.resize(begin + static_cast<size_t>(got));
    if (got == 0) break;
  }
  return text;
}

}  // namespace

std::string read_text_file(const fs::path& path, std::string_view key, int64_t max_bytes) {
  const std::string text =
      is_zstd(path) ? read_zstd_file(path, key, max_bytes) : read_plain_or_gzip(path, key, max_bytes);
  HEADWAY_CHECK(text.find('\0') == std::string::npos, DataError,
                fmt::format("{}: {} is no text: it looks like {}", key, path.string(), name_of(text)));
  return text;
}

}  // namespace headway
