// Which tokens of a text are held out, where whole documents are not: its end, or blocks that a seed chooses.
#pragma once

#include <cstdint>
#include <vector>

namespace headway {

/// Tokens begin .. end of a text.
struct TokenRange {
  int64_t begin = 0, end = 0;
};

/// Some tokens of a text as one sequence.
class TokenRanges {
 public:
  TokenRanges() = default;
  /// Ascending, none empty, none overlapping.
  explicit TokenRanges(std::vector<TokenRange>);

  int64_t num_tokens() const { return ends_.empty() ? 0 : ends_.back(); }
  const std::vector<TokenRange>& ranges() const { return ranges_; }
  /// Where tokens offset .. offset + count of the sequence stand in the text.
  std::vector<TokenRange> find(int64_t offset, int64_t count) const;
  /// All other tokens of a text of this length.
  TokenRanges complement(int64_t num_tokens) const;

 private:
  std::vector<TokenRange> ranges_;
  std::vector<int64_t> ends_;  // in the sequence
};

/// Tokens of a block that data.split = "blocks" holds out or not.
constexpr int64_t kHeldOutBlock = int64_t{1} << 16;

/// The last `fraction` of a text, rounded down.
TokenRanges held_out_tail(int64_t num_tokens, double fraction);
/// The number of blocks that is nearest to `fraction` of them, but not none and not all, chosen by the seed.
/// DataError where the text has fewer than two blocks.
TokenRanges held_out_blocks(int64_t num_tokens, double fraction, int64_t seed);

}  // namespace headway
