// Sizes of a tensor, stored inline.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/error.h"

namespace headway {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) {
    for (const int64_t size : sizes) append(size);
  }

  int rank() const { return rank_; }
  /// Size along dim; negative dims count from the end.
  int64_t operator[](int dim) const { return sizes_[static_cast<size_t>(normalize(dim))]; }
  int64_t& operator[](int dim) { return sizes_[static_cast<size_t>(normalize(dim))]; }
  int64_t numel() const {
    int64_t product = 1;
    for (int i = 0; i < rank_; ++i) product *= sizes_[static_cast<size_t>(i)];
    return product;
  }
  void append(int64_t size) {
    HEADWAY_CHECK(rank_ < kMaxRank, ShapeError, "a tensor has at most 6 dimensions");
    sizes_[static_cast<size_t>(rank_++)] = size;
  }
  /// Index of dim in 0..rank-1.
  int normalize(int dim) const {
    const int index = dim < 0 ? dim + rank_ : dim;
    HEADWAY_CHECK(index >= 0 && index < rank_, ShapeError,
                  "dimension " + std::to_string(dim) + " does not exist in " + to_string());
    return index;
  }
  const int64_t* begin() const { return sizes_.data(); }
  const int64_t* end() const { return sizes_.data() + rank_; }
  bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if ((*this)[i] != other[i]) return false;
    return true;
  }
  /// "[2, 3]"
  std::string to_string() const {
    std::string text = "[";
    for (int i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string((*this)[i]);
    return text + "]";
  }

 private:
  std::array<int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

}  // namespace headway
