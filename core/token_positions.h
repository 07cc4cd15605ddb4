// Where the tokens of a tensor [B,T,...] stand in their sequences, and which of them a rank holds where
// several ranks share a sequence.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace headway {

/// Consecutive positions from `first` on. Where a rank holds two pieces of each sequence, `skipped` positions
/// are left out after the first `before_gap` tokens.
struct TokenPositions {
  int64_t first = 0;
  int64_t before_gap = 0;
  int64_t skipped = 0;

  /// Of token t >= 0.
  HEADWAY_HD int64_t of(int64_t t) const { return first + t + (t < before_gap ? 0 : skipped); }
  /// The token at a position, negative where none stands there; it may lie behind the last one.
  HEADWAY_HD int64_t token_at(int64_t position) const {
    const int64_t t = position - first;
    if (t < before_gap) return t;
    return t - skipped < before_gap ? -1 : t - skipped;
  }
};

/// Segments of a sequence that N ranks share: 2N of equal length, of which rank r holds numbers r and 2N-1-r,
/// so that every rank does the same amount of causal work (Llama 3, arXiv 2407.21783, section 3.3.2).
///
///   N = 2:  rank 0 | rank 1 | rank 1 | rank 0
struct Zigzag {
  int64_t num_ranks = 1;

  HEADWAY_HD int64_t num_segments() const { return 2 * num_ranks; }
  /// Number of a rank's first (half = 0) or second (half = 1) segment.
  HEADWAY_HD int64_t segment(int64_t rank, int64_t half) const {
    return half == 0 ? rank : num_segments() - 1 - rank;
  }
  HEADWAY_HD int64_t half_of(int64_t segment) const { return segment < num_ranks ? 0 : 1; }
  HEADWAY_HD int64_t rank_of(int64_t number) const {
    return half_of(number) == 0 ? number : num_segments() - 1 - number;
  }
  /// Of a rank's tokens, both segments one after the other.
  HEADWAY_HD TokenPositions positions(int64_t rank, int64_t segment_length) const {
    const int64_t first = segment(rank, 0), second = segment(rank, 1);
    return {first * segment_length, segment_length, (second - first - 1) * segment_length};
  }
};

}  // namespace headway
