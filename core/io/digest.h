// Digests of bytes as lower-case hexadecimal text, equal to what `xxhsum -H3` and `xxhsum -H2` print.
//
// XXH3 (github.com/Cyan4973/xxHash) finds accidental damage at memory speed; it does not resist an attacker.
#pragma once

#include <cstddef>
#include <string>

namespace headway {

/// XXH3, 64 bits: 16 digits.
std::string xxh3_64(const void* bytes, size_t size);
/// XXH3, 128 bits: 32 digits.
std::string xxh3_128(const void* bytes, size_t size);

}  // namespace headway
