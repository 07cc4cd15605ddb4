#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

#include "core/error.h"
#include "core/text/text_file.h"

namespace headway {

std::string read_zstd_file(const std::filesystem::path& path, std::string_view key, int64_t max_bytes) {
  const auto fail = [&](const char* reason) {
    throw DataError(fmt::format("{}: cannot read {}: {}", key, path.string(), reason));
  };
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(std::strerror(errno));
  const std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream(ZSTD_createDStream(),
                                                                        ZSTD_freeDStream);
  if (!stream) fail("out of memory");
  std::string piece(ZSTD_DStreamInSize(), '\0'), text;
  size_t left = 1;  // bytes the current frame still wants; 0 between frames
  while (static_cast<int64_t>(text.size()) < max_bytes) {
    in.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    ZSTD_inBuffer input{piece.data(), static_cast<size_t>(in.gcount()), 0};
    if (input.size == 0) break;
    bool more_waits = true;  // the output was full before the frame ended
    while (input.pos < input.size || more_waits) {
      const size_t begin = text.size();
      text.resize(begin + ZSTD_DStreamOutSize());
      ZSTD_outBuffer output{text.data() + begin, text.size() - begin, 0};
      left = ZSTD_decompressStream(stream.get(), &output, &input);
      text.resize(begin + output.pos);
      if (ZSTD_isError(left)) fail(ZSTD_getErrorName(left));
      more_waits = left != 0 && output.pos == output.size;
      if (static_cast<int64_t>(text.size()) >= max_bytes) break;
    }
  }
  const bool is_whole = static_cast<int64_t>(text.size()) < max_bytes;
  if (is_whole && left != 0) fail("the file ends in the middle");
  text.resize(std::min(text.size(), static_cast<size_t>(max_bytes)));
  return text;
}

}  // namespace headway
