#include "core/io/digest.h"

#include <fmt/format.h>
#include <xxhash.h>

namespace headway {

std::string xxh3_64(const void* bytes, size_t size) {
  return fmt::format("{:016x}", XXH3_64bits(bytes, size));
}

std::string xxh3_128(const void* bytes, size_t size) {
  const XXH128_hash_t hash = XXH3_128bits(bytes, size);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace headway
