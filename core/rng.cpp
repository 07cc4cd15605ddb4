#include "core/rng.h"

#include <cmath>
#include <numbers>

namespace headway {

double normal(const RandomKey& key, uint64_t element) {
  // Two 32-bit words per number; (0, 1] keeps the logarithm finite.
  const PhiloxBlock block = random_block(key, (key.first_element + element) / 2);
  const size_t half = (key.first_element + element) % 2 * 2;
  const double u = (static_cast<double>(block.word[half]) + 1.0) * 0x1p-32;
  const double v = static_cast<double>(block.word[half + 1]) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

uint32_t stream_of(const char* name) {
  uint32_t hash = 2166136261u;  // FNV-1a
  for (; *name; ++name) hash = (hash ^ static_cast<unsigned char>(*name)) * 16777619u;
  return hash;
}

}  // namespace headway
