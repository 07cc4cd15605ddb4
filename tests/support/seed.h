// Fresh random inputs for every run of a test, repeatable through HEADWAY_TEST_SEED.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

#include "core/rng.h"

namespace headway {

inline uint32_t fresh_seed() {
  if (const char* given = std::getenv("HEADWAY_TEST_SEED"))
    return static_cast<uint32_t>(std::strtoul(given, nullptr, 10));
  return std::random_device{}();
}

/// Normal numbers; another `which` gives other numbers from the same seed.
template <class T>
std::vector<T> random_values(int64_t count, uint32_t seed, uint32_t which, double scale = 1) {
  std::vector<T> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<T>(scale * normal(RandomKey{seed, 0, which, 0}, i));
  return values;
}

}  // namespace headway
