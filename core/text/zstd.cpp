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

void read_zstd_file(const std::filesystem::path& path, std::string_view key, int64_t max_bytes,
                    const TextSink& sink) {
  const auto fail = [&](const char* reason) {
    throw DataError(fmt::format("{}: cannot read {}: {}", key, path.string(), reason));
  };
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(std::strerror(errno));
  const std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream(ZSTD_createDStream(),
                                                                        ZSTD_freeDStream);
  if (!stream) fail("out of memory");
  std::string compressed(ZSTD_DStreamInSize(), '\0'), text(ZSTD_DStreamOutSize(), '\0');
  int64_t wanted = max_bytes;
  size_t left = 1;  // bytes the current frame still wants; 0 between frames
  while (wanted > 0) {
    in.read(compressed.data(), static_cast<std::streamsize>(compressed.size()));
    if (in.bad()) fail(std::strerror(errno));
    ZSTD_inBuffer input{compressed.data(), static_cast<size_t>(in.gcount()), 0};
    if (input.size == 0) break;
    bool more_waits = true;  // the output was full before the frame ended
    while (wanted > 0 && (input.pos < input.size || more_waits)) {
      ZSTD_outBuffer output{text.data(), text.size(), 0};
      left = ZSTD_decompressStream(stream.get(), &output, &input);
      if (ZSTD_isError(left)) fail(ZSTD_getErrorName(left));
      more_waits = left != 0 && output.pos == output.size;
      const int64_t count = std::min(static_cast<int64_t>(output.pos), wanted);
      if (count > 0) sink(std::string_view(text).substr(0, static_cast<size_t>(count)));
      wanted -= count;
    }
  }
  if (wanted > 0 && left != 0) fail("the file ends in the middle");
}

}  // namespace headway
