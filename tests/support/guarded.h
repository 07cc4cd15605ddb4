// Output memory for kernels under test: filled with NaN, so that an element nobody wrote shows, and with a
// margin on both sides, so that a write outside shows.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "core/tensor.h"

namespace headway::testing {

template <class T>
class Guarded {
 public:
  explicit Guarded(const Shape& shape)
      : whole_(Tensor::empty({2 * kMargin + shape.numel()}, dtype_of<T>, Device{})),
        tensor_(whole_.slice(0, kMargin, kMargin + shape.numel()).reshape(shape)) {
    std::fill_n(whole_.template data<T>(), whole_.numel(), std::numeric_limits<T>::quiet_NaN());
    std::memset(whole_.raw(), kMark, kMargin * sizeof(T));
    std::memset(whole_.template data<T>() + kMargin + tensor_.numel(), kMark, kMargin * sizeof(T));
  }
  const Tensor& tensor() const { return tensor_; }
  void expect_untouched_margins(const char* name) const {
    const auto* bytes = static_cast<const unsigned char*>(whole_.raw());
    const size_t margin = kMargin * sizeof(T), end = whole_.bytes() - margin;
    for (size_t i = 0; i < margin; ++i) {
      ASSERT_EQ(bytes[i], kMark) << name << ": written " << margin - i << " bytes before its memory";
      ASSERT_EQ(bytes[end + i], kMark) << name << ": written " << i << " bytes behind its memory";
    }
  }

 private:
  static constexpr int64_t kMargin = 64;
  static constexpr unsigned char kMark = 0xA5;
  Tensor whole_, tensor_;
};

}  // namespace headway::testing
