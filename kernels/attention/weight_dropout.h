// Dropout of attention weights, as GPT-2 trains with it: of the normalised weights a share is dropped, and
// the others are scaled up. With Z_ij = 1 / (1 - rate) where the weight of row i and key j is kept, else 0,
//
//   Y_i  = sum_j Z_ij P_ij v_j                 dP_ij = Z_ij G_i.v_j
//   dv_j = sum_i (r_i Z_ij P_ij + beta_i) G_i
//
// and all else is as in softmax.h: log-sum-exps and C_i do not change, and D_i = G_i.Y_i still holds.
//
// Whether a weight is kept is a function of (seed, step, number of the call within the step, place of the
// sequence in the whole batch, head, row, key), so nothing is stored, and tiles, micro-batches, ranks and
// recomputation do not matter. Philox gives four words at a time: one block serves rows r and r + 8 and keys
// j and j + 8, which is what a thread of a tensor core holds of a tile of scores, in either orientation.
#pragma once

#include <cstdint>

#include "core/rng.h"
#include "kernels/attention/softmax_variant.h"
#include "kernels/dropout_words.h"

namespace headway {

struct WeightDropout {
  RandomKey key = {};  // first_element counts words
  uint32_t first_kept = 0;
  float scale = 1;  // 1 / (1 - rate)
  int num_heads = 0;
  uint64_t blocks_per_row = 0, blocks_per_head = 0;

  /// Of a call with num_queries rows of num_heads heads and num_keys keys.
  static WeightDropout next(Rng& rng, double rate, int64_t num_heads, int64_t num_queries, int64_t num_keys) {
    const uint64_t per_row = num_blocks(num_keys), per_head = num_blocks(num_queries) * per_row;
    return {.key = rng.next(4 * per_head * static_cast<uint64_t>(num_heads)),
            .first_kept = first_kept_word(rate),
            .scale = static_cast<float>(1 / (1 - rate)),
            .num_heads = static_cast<int>(num_heads),
            .blocks_per_row = per_row,
            .blocks_per_head = per_head};
  }

  /// Rows and keys come in groups of 16, whose members n and n + 8 share a block: how many there are, the
  /// index of a member's, and which of the two it is.
  static constexpr uint64_t num_blocks(int64_t members) {
    return static_cast<uint64_t>((members + 15) / 16 * 8);
  }
  HEADWAY_HD static constexpr uint64_t block_index(int i) {
    return static_cast<uint64_t>(i >> 4 << 3 | (i & 7));
  }
  HEADWAY_HD static constexpr int second(int i) { return i >> 3 & 1; }
  HEADWAY_HD static constexpr int word(int second_row, int second_key) { return 2 * second_row + second_key; }

  /// The words of a row and a key, and of those that share their block.
  HEADWAY_HD PhiloxBlock block(int batch, int head, int row, int key_number) const {
    const uint64_t of_head =
        static_cast<uint64_t>(batch) * static_cast<uint64_t>(num_heads) + static_cast<uint64_t>(head);
    return random_block(key, key.first_element / 4 + of_head * blocks_per_head +
                                 block_index(row) * blocks_per_row + block_index(key_number));
  }
  HEADWAY_HD bool keeps(uint32_t word) const { return word >= first_kept; }
  /// Z
  HEADWAY_HD float factor(int batch, int head, int row, int key_number) const {
    const PhiloxBlock words = block(batch, head, row, key_number);
    return keeps(words.word[word(second(row), second(key_number))]) ? scale : 0.0f;
  }
};

/// A variant whose weights are dropped.
template <class V>
struct WithDropout : V {
  using Variant = V;
  static constexpr bool drops_weights = true;
  struct Params : V::Params {
    WeightDropout dropout;
  };
};

}  // namespace headway
