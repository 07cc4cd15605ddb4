#include "core/text/text_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "core/error.h"
#include "core/io/descriptor.h"
#include "core/io/digest.h"
#include "core/stop_signal.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kGzip = "\x1f\x8b"sv;
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

/// gzip, or a file as it is: zlib tells them apart.
void read_plain_or_gzip(const fs::path& path, std::string_view key, int64_t max_bytes, const TextSink& sink) {
  errno = 0;
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  const auto fail = [&](const char* reason) {
    throw DataError(fmt::format("{}: cannot read {}: {}", key, path.string(), reason));
  };
  if (!file) fail(errno != 0 ? std::strerror(errno) : "out of memory");
  constexpr int64_t kPiece = 1 << 20;
  gzbuffer(file.get(), kPiece / 8);
  std::string piece(static_cast<size_t>(std::min(kPiece, max_bytes)), '\0');
  for (int64_t left = max_bytes; left > 0;) {
    const int got = gzread(file.get(), piece.data(), static_cast<unsigned>(std::min(kPiece, left)));
    int error = Z_OK;
    const char* const reason = gzerror(file.get(), &error);
    if (got < 0 || (error != Z_OK && error != Z_STREAM_END))
      fail(error == Z_ERRNO ? std::strerror(errno) : reason);
    if (got == 0) break;
    sink(std::string_view(piece).substr(0, static_cast<size_t>(got)));
    left -= got;
  }
}

}  // namespace

TextFormat text_format(const fs::path& path, std::string_view key) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  std::array<char, kZstd.size()> begin{};
  const int64_t got = file.is_open() ? file.read_at(0, std::as_writable_bytes(std::span(begin))) : -1;
  HEADWAY_CHECK(got >= 0, DataError,
                fmt::format("{}: cannot read {}: {}", key, path.string(), std::strerror(errno)));
  const std::string_view content(begin.data(), static_cast<size_t>(got));
  return content == kZstd             ? TextFormat::zstd
         : content.starts_with(kGzip) ? TextFormat::gzip
                                      : TextFormat::plain;
}

void read_text_file(const fs::path& path, std::string_view key, int64_t max_bytes, const TextSink& sink) {
  constexpr size_t kTelling = 512;  // what name_of() looks at
  std::string begin;
  const TextSink checked = [&](std::string_view piece) {
    if (begin.size() < kTelling) begin += piece.substr(0, kTelling - begin.size());
    HEADWAY_CHECK(piece.find('\0') == std::string_view::npos, DataError,
                  fmt::format("{}: {} is no text: it looks like {}", key, path.string(), name_of(begin)));
    sink(piece);
  };
  if (text_format(path, key) == TextFormat::zstd)
    read_zstd_file(path, key, max_bytes, checked);
  else
    read_plain_or_gzip(path, key, max_bytes, checked);
}

std::string read_text_file(const fs::path& path, std::string_view key, int64_t max_bytes) {
  std::string text;
  read_text_file(path, key, max_bytes, [&](std::string_view piece) { text += piece; });
  return text;
}

EncodedFile encode_text_file(const fs::path& path, std::string_view key, int64_t max_bytes,
                             const Tokenizer& tokenizer,
                             const std::function<void(std::span<const int32_t> ids)>& sink) {
  EncodedFile file;
  Xxh3 digest;
  std::string whole;
  std::vector<int32_t> ids;
  const auto encode = [&](std::string_view text) {
    ids.clear();
    tokenizer.encode(text, ids);
    sink(ids);
  };
  read_text_file(path, key, max_bytes, [&](std::string_view piece) {
    throw_if_stop_requested();
    digest.add(piece.data(), piece.size());
    file.num_bytes += static_cast<int64_t>(piece.size());
    if (tokenizer.encodes_bytes())
      encode(piece);
    else
      whole += piece;
  });
  if (!tokenizer.encodes_bytes()) encode(whole);
  file.digest = digest.digest();
  return file;
}

}  // namespace headway
