// How dropout decides from random words: an element draws 32 bits and is kept where they are large enough.
#pragma once

#include <cmath>
#include <cstdint>

namespace headway {

/// The smallest word that keeps its element, for 0 <= rate < 1: word >= this where uniform_from(word) >= rate
/// (core/rng.h), which looks at 24 bits, so that whole numbers are compared.
inline uint32_t first_kept_word(double rate) {
  return static_cast<uint32_t>(std::ceil(static_cast<float>(rate) * 0x1p24f)) << 8;
}

}  // namespace headway
