// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), equal bits on every backend.
//
// A number is a function of (seed, step, stream, element), so nothing but the seed and the step has to be
// saved to resume, and the numbers of a sample do not depend on how samples are spread over ranks.
#pragma once

#include <array>
#include <cstdint>

#include "core/host_device.h"

namespace headway {

struct PhiloxBlock {
  uint32_t word[4];
};

/// Ten rounds of Philox4x32 on a 128-bit counter with a 64-bit key.
HEADWAY_HD PhiloxBlock philox4x32(PhiloxBlock counter, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter.word[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {
        {static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

/// Names one tensor of random numbers; element i of it is uniform(key, i) or normal(key, i).
struct RandomKey {
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t stream = 0;
  uint64_t first_element = 0;  // index in the whole batch of the tensor's first element
};

HEADWAY_HD PhiloxBlock random_block(const RandomKey& key, uint64_t block) {
  return philox4x32(
      {{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), key.stream, key.step}}, key.seed);
}

HEADWAY_HD uint32_t random_bits(const RandomKey& key, uint64_t element) {
  const uint64_t index = key.first_element + element;
  return random_block(key, index / 4).word[index % 4];
}

/// Uniform in [0, 1) with 24 bits.
HEADWAY_HD float uniform_from(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }
HEADWAY_HD float uniform(const RandomKey& key, uint64_t element) {
  return uniform_from(random_bits(key, element));
}

/// Standard normal by Box and Muller, in double on the host.
double normal(const RandomKey& key, uint64_t element);

/// Hands out keys in the order of the calls within one step; the engine rewinds it to recompute a block.
class Rng {
 public:
  explicit Rng(uint64_t seed) : seed_(seed) {}

  /// Starts the numbers of a micro-batch whose first sequence is number `first_sample` of the global batch.
  void begin(uint32_t step, uint64_t first_sample) {
    step_ = step;
    first_sample_ = first_sample;
    stream_ = 0;
  }
  /// A key for a tensor whose leading dimension is the batch, with this many elements per sequence.
  RandomKey next(uint64_t elements_per_sample) {
    return {seed_, step_, stream_++, first_sample_ * elements_per_sample};
  }
  uint32_t position() const { return stream_; }
  void rewind(uint32_t position) { stream_ = position; }
  uint64_t seed() const { return seed_; }

 private:
  uint64_t seed_;
  uint32_t step_ = 0;
  uint32_t stream_ = 0;
  uint64_t first_sample_ = 0;
};

/// 32 bits from a name, to address random streams that are not drawn in call order (parameters, data order).
uint32_t stream_of(const char* name);

}  // namespace headway
