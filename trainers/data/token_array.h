// Token ids in memory, 16 bits each where the vocabulary allows it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "trainers/data/token_ranges.h"

namespace headway {

class TokenArray {
 public:
  explicit TokenArray(int64_t vocab_size) : is_wide_(vocab_size > 65536) {}

  int64_t size() const { return static_cast<int64_t>(is_wide_ ? wide_.size() : narrow_.size()); }
  void append(std::span<const int32_t> ids) {
    if (is_wide_)
      wide_.insert(wide_.end(), ids.begin(), ids.end());
    else
      narrow_.insert(narrow_.end(), ids.begin(), ids.end());
  }
  void read(int64_t offset, std::span<int32_t> ids) const {
    if (is_wide_)
      std::copy_n(wide_.begin() + offset, ids.size(), ids.begin());
    else
      std::copy_n(narrow_.begin() + offset, ids.size(), ids.begin());
  }
  /// Takes these ranges out and returns them one after the other.
  TokenArray take(std::span<const TokenRange> ranges) {
    TokenArray taken(*this, ranges);
    if (is_wide_)
      remove(wide_, ranges);
    else
      remove(narrow_, ranges);
    return taken;
  }
  std::span<const std::byte> bytes() const {
    return is_wide_ ? std::as_bytes(std::span(wide_)) : std::as_bytes(std::span(narrow_));
  }
  void shrink_to_fit() {
    wide_.shrink_to_fit();
    narrow_.shrink_to_fit();
  }

 private:
  TokenArray(const TokenArray& other, std::span<const TokenRange> ranges) : is_wide_(other.is_wide_) {
    for (const auto& [begin, end] : ranges) {
      if (is_wide_)
        wide_.insert(wide_.end(), other.wide_.begin() + begin, other.wide_.begin() + end);
      else
        narrow_.insert(narrow_.end(), other.narrow_.begin() + begin, other.narrow_.begin() + end);
    }
  }
  template <class Id>
  static void remove(std::vector<Id>& ids, std::span<const TokenRange> ranges) {
    if (ranges.empty()) return;
    auto to = ids.begin() + ranges.front().begin;
    for (size_t i = 0; i < ranges.size(); ++i) {
      const auto next = i + 1 < ranges.size() ? ids.begin() + ranges[i + 1].begin : ids.end();
      to = std::move(ids.begin() + ranges[i].end, next, to);
    }
    ids.erase(to, ids.end());
  }

  bool is_wide_;
  std::vector<uint16_t> narrow_;
  std::vector<int32_t> wide_;
};

}  // namespace headway
