#include "trainers/data/sample_order.h"

#include <bit>

#include "core/rng.h"

namespace headway {

// A balanced Feistel network permutes the smallest even number of bits that holds all indices; what falls
// outside is permuted again until it is inside (cycle walking, Black and Rogaway, CT-RSA 2002): at most 4
// rounds on average.
int64_t SampleOrder::sample(int64_t position) const {
  constexpr uint32_t kRounds = 6;
  const int64_t index = position % num_samples_;
  const auto count = static_cast<uint64_t>(num_samples_);
  if (count == 1) return 0;
  const auto half = static_cast<int>((std::bit_width(count - 1) + 1) / 2);
  const uint64_t mask = (uint64_t{1} << half) - 1;
  const auto step = static_cast<uint32_t>(epoch(position));
  uint64_t value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> half, right = value & mask;
    for (uint32_t round = 0; round < kRounds; ++round) {
      const PhiloxBlock block = philox4x32({{static_cast<uint32_t>(right), static_cast<uint32_t>(right >> 32),
                                             round, step ^ stream_of("sample order")}},
                                           seed_);
      const uint64_t mixed = left ^ (block.word[0] & mask);
      left = right;
      right = mixed;
    }
    value = left << half | right;
  } while (value >= count);
  return static_cast<int64_t>(value);
}

}  // namespace headway
