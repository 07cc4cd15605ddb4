// Keys and values of the tokens so far, for decoding with the softmax family, and the rows that short
// convolutions look back on.
#pragma once

#include <vector>

#include "layers/attention/attention_layer.h"
#include "layers/attention/row_history.h"

namespace headway {

class KvCache final : public AttentionState {
 public:
  /// Room for `capacity` tokens of [K,Dh] keys and values in each of `batch` sequences.
  KvCache(int64_t batch, int64_t capacity, int64_t num_kv_heads, int64_t head_dim, DType dtype, Device device)
      : keys_(Tensor::empty({batch, capacity, num_kv_heads, head_dim}, dtype, device)),
        values_(Tensor::empty(keys_.shape(), dtype, device)) {}

  /// Appends [B,T,K,Dh]; ShapeError when there is no room left.
  void append(const Tensor& key, const Tensor& value, Stream& stream) {
    const int64_t end = length_ + key.size(1);
    for (int64_t b = 0; b < key.size(0); ++b) {
      row(keys_, b, end).copy_from(key.slice(0, b, b + 1), stream);
      row(values_, b, end).copy_from(value.slice(0, b, b + 1), stream);
    }
    length_ = end;
  }
  int64_t length() const { return length_; }
  /// [B,length,K,Dh]
  Tensor keys() const { return keys_.slice(1, 0, length_); }
  Tensor values() const { return values_.slice(1, 0, length_); }

  std::vector<RowHistory> convolutions;  // of queries, keys and values, where the kind has short convolutions

 private:
  Tensor row(const Tensor& cache, int64_t b, int64_t end) const {
    return cache.slice(0, b, b + 1).slice(1, length_, end);
  }

  Tensor keys_, values_;
  int64_t length_ = 0;
};

}  // namespace headway
