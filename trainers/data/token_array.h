// Token ids in memory, 16 bits each where the vocabulary allows it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

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
  /// The last `count` ids, taken off.
  std::vector<int32_t> take_last(int64_t count) {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    read(size() - count, ids);
    if (is_wide_)
      wide_.resize(wide_.size() - ids.size());
    else
      narrow_.resize(narrow_.size() - ids.size());
    return ids;
  }
  std::span<const std::byte> bytes() const {
    return is_wide_ ? std::as_bytes(std::span(wide_)) : std::as_bytes(std::span(narrow_));
  }
  void shrink_to_fit() {
    wide_.shrink_to_fit();
    narrow_.shrink_to_fit();
  }

 private:
  bool is_wide_;
  std::vector<uint16_t> narrow_;
  std::vector<int32_t> wide_;
};

}  // namespace headway
