// Digests of bytes as lower-case hexadecimal text, equal to what `xxhsum -H3` and `xxhsum -H2` print.
//
// XXH3 (github.com/Cyan4973/xxHash) finds accidental damage at memory speed; it does not resist an attacker.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

struct XXH3_state_s;

namespace headway {

/// XXH3, 64 bits: 16 digits.
std::string xxh3_64(const void* bytes, size_t size);
/// XXH3, 128 bits: 32 digits.
std::string xxh3_128(const void* bytes, size_t size);

/// xxh3_64 of bytes that come piece by piece.
class Xxh3 {
 public:
  Xxh3();
  void add(const void* bytes, size_t size);
  /// Of all bytes so far.
  std::string digest() const;

 private:
  struct Free {
    void operator()(XXH3_state_s*) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

}  // namespace headway
