// The last rows that a causal convolution looks back on while decoding.
#pragma once

#include "autograd/apply.h"
#include "autograd/ops/last_rows.h"

namespace headway {

class RowHistory {
 public:
  /// Keeps this many rows of each sequence.
  explicit RowHistory(int64_t num_rows) : num_rows_(num_rows) {}

  /// [B,num_rows,...], oldest first, zero where there were fewer. Undefined (all zero) before the first
  /// advance.
  const Variable& rows() const { return rows_; }
  void set_rows(const Variable& rows) { rows_ = rows; }

  /// Appends x [B,T,...] and forgets what is too old.
  void advance(Context& ctx, const Variable& x) {
    if (num_rows_ > 0) rows_ = apply<LastRows>(ctx, {.count = num_rows_}, x, rows_);
  }

 private:
  int64_t num_rows_;
  Variable rows_;
};

}  // namespace headway
