// Places arrays in one block of scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace headway {

/// Cuts arrays out of one block of memory, each on its own cache lines; without a block it only counts.
class Carver {
 public:
  explicit Carver(std::byte* block) : block_(block) {}
  template <class T>
  T* take(int64_t count) {
    constexpr size_t kLine = 64;
    T* array = block_ ? reinterpret_cast<T*>(block_ + used_) : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + kLine - 1) / kLine * kLine;
    return array;
  }
  size_t used() const { return used_; }

 private:
  std::byte* block_;
  size_t used_ = 0;
};

}  // namespace headway
