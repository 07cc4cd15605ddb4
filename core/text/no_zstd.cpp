// Where zstd's library is missing.
#include <fmt/format.h>

#include "core/error.h"
#include "core/text/text_file.h"

namespace headway {

void read_zstd_file(const std::filesystem::path& path, std::string_view key, int64_t, const TextSink&) {
  throw DataError(fmt::format(
      "{}: {} is compressed by zstd, which this build cannot read: install libzstd-dev and build again", key,
      path.string()));
}

}  // namespace headway
