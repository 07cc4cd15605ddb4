// Typed, strided window on memory owned by someone else: what kernels take, by value.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/host_device.h"

namespace headway {

template <class T, int Rank>
struct View {
  using Element = T;
  static constexpr int rank = Rank;

  T* data = nullptr;
  int64_t size[Rank] = {};
  int64_t stride[Rank] = {};  // in elements

  template <class... Index>
  HEADWAY_HD T& operator()(Index... index) const {
    static_assert(sizeof...(Index) == Rank, "one index per dimension");
    int64_t offset = 0;
    int dim = 0;
    ((offset += static_cast<int64_t>(index) * stride[dim++]), ...);
    return data[offset];
  }
  HEADWAY_HD int64_t numel() const {
    int64_t product = 1;
    for (int i = 0; i < Rank; ++i) product *= size[i];
    return product;
  }
  HEADWAY_HD bool is_contiguous() const {
    int64_t expected = 1;
    for (int i = Rank - 1; i >= 0; --i) {
      if (size[i] != 1 && stride[i] != expected) return false;
      expected *= size[i];
    }
    return true;
  }
  /// An absent optional argument has no memory.
  HEADWAY_HD explicit operator bool() const { return data != nullptr; }
  /// Read-only view of the same memory.
  HEADWAY_HD operator View<const T, Rank>() const requires(!std::is_const_v<T>) {
    View<const T, Rank> view;
    view.data = data;
    for (int i = 0; i < Rank; ++i) view.size[i] = size[i], view.stride[i] = stride[i];
    return view;
  }
};

}  // namespace headway
