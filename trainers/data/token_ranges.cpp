#include "trainers/data/token_ranges.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"

namespace headway {

TokenRanges::TokenRanges(std::vector<TokenRange> ranges) : ranges_(std::move(ranges)) {
  for (const TokenRange& range : ranges_) ends_.push_back(num_tokens() + range.end - range.begin);
}

std::vector<TokenRange> TokenRanges::find(int64_t offset, int64_t count) const {
  std::vector<TokenRange> found;
  auto i = static_cast<size_t>(std::ranges::upper_bound(ends_, offset) - ends_.begin());
  while (count > 0) {
    const int64_t begin = ranges_[i].end - (ends_[i] - offset);
    const int64_t length = std::min(count, ranges_[i].end - begin);
    found.push_back({begin, begin + length});
    offset += length;
    count -= length;
    ++i;
  }
  return found;
}

TokenRanges TokenRanges::complement(int64_t num_tokens) const {
  std::vector<TokenRange> others;
  int64_t begin = 0;
  for (const TokenRange& range : ranges_) {
    if (begin < range.begin) others.push_back({begin, range.begin});
    begin = range.end;
  }
  if (begin < num_tokens) others.push_back({begin, num_tokens});
  return TokenRanges(std::move(others));
}

TokenRanges held_out_tail(int64_t num_tokens, double fraction) {
  const auto count = static_cast<int64_t>(fraction * static_cast<double>(num_tokens));
  if (count == 0) return {};
  return TokenRanges({{num_tokens - count, num_tokens}});
}

TokenRanges held_out_blocks(int64_t num_tokens, double fraction, int64_t seed) {
  const int64_t num_blocks = (num_tokens + kHeldOutBlock - 1) / kHeldOutBlock;
  HEADWAY_CHECK(
      num_blocks > 1, DataError,
      fmt::format("data.split = \"blocks\": the text has {} tokens, expected more than one block of "
                  "{}; data.split = \"tail\" holds out the end of a shorter one",
                  num_tokens, kHeldOutBlock));
  // The blocks whose random numbers are smallest.
  const RandomKey key{static_cast<uint64_t>(seed), 0, stream_of("held-out blocks"), 0};
  std::vector<int64_t> blocks(static_cast<size_t>(num_blocks));
  std::iota(blocks.begin(), blocks.end(), int64_t{0});
  std::ranges::sort(blocks, {}, [&](int64_t block) {
    return std::pair(random_bits(key, static_cast<uint64_t>(block)), block);
  });
  const int64_t wanted = std::llround(fraction * static_cast<double>(num_blocks));
  blocks.resize(static_cast<size_t>(std::clamp<int64_t>(wanted, 1, num_blocks - 1)));
  std::ranges::sort(blocks);
  std::vector<TokenRange> ranges;
  for (const int64_t block : blocks)
    ranges.push_back({block * kHeldOutBlock, std::min((block + 1) * kHeldOutBlock, num_tokens)});
  return TokenRanges(std::move(ranges));
}

}  // namespace headway
