#include "core/io/digest.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <new>

namespace headway {

std::string xxh3_64(const void* bytes, size_t size) {
  return fmt::format("{:016x}", XXH3_64bits(bytes, size));
}

std::string xxh3_128(const void* bytes, size_t size) {
  const XXH128_hash_t hash = XXH3_128bits(bytes, size);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

Xxh3::Xxh3() : state_(XXH3_createState()) {
  if (!state_) throw std::bad_alloc();
  XXH3_64bits_reset(state_.get());
}

void Xxh3::add(const void* bytes, size_t size) { XXH3_64bits_update(state_.get(), bytes, size); }

std::string Xxh3::digest() const { return fmt::format("{:016x}", XXH3_64bits_digest(state_.get())); }

void Xxh3::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

}  // namespace headway
