// The last rows that a causal convolution looks back on while decoding.
#pragma once

#include <algorithm>

#include "core/tensor.h"

namespace headway {

class RowHistory {
 public:
  /// Keeps this many rows.
  explicit RowHistory(int64_t num_rows) : num_rows_(num_rows) {}

  /// [B,num_rows,...], oldest first, zero where there were fewer. Undefined (all zero) before the first
  /// advance.
  const Tensor& rows() const { return rows_; }

  /// Appends x [B,T,...] and forgets what is too old.
  void advance(const Tensor& x, Stream& stream) {
    if (num_rows_ == 0) return;
    const int64_t T = x.size(1), kept = std::max<int64_t>(num_rows_ - T, 0);
    Shape shape = x.shape();
    shape[1] = num_rows_;
    const Tensor next = Tensor::zeros(shape, x.dtype(), stream);
    for (int64_t b = 0; b < x.size(0); ++b) {
      const auto copy = [&](const Tensor& from, int64_t first, int64_t to, int64_t count) {
        next.slice(0, b, b + 1)
            .slice(1, to, to + count)
            .copy_from(from.slice(0, b, b + 1).slice(1, first, first + count), stream);
      };
      if (rows_ && kept > 0) copy(rows_, T, 0, kept);
      copy(x, T - (num_rows_ - kept), kept, num_rows_ - kept);
    }
    rows_ = next;
  }

 private:
  int64_t num_rows_;
  Tensor rows_;
};

}  // namespace headway
