// Where the tensors of a model lie in one flat tensor that ranks exchange piece by piece.
//
// The last created tensor comes first, because backward finishes with gradients in about that order; each
// starts on a cache line. Buckets are consecutive stretches of about the same size, made of whole tensors and
// rounded up so that every piece of one divides into equal parts of whole cache lines, one for each rank.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace headway {

/// Elements lo <= i < hi.
struct Range {
  int64_t lo = 0;
  int64_t hi = 0;
  int64_t size() const { return hi - lo; }
  bool operator==(const Range&) const = default;
};

class FlatLayout {
 public:
  struct Bucket {
    Range range;
    size_t num_tensors = 0;
  };

  /// Shapes in the order of creation, the same on every rank.
  FlatLayout(std::span<const Shape> shapes, DType, size_t bucket_bytes, int num_ranks);

  size_t num_tensors() const { return shapes_.size(); }
  /// Elements of the flat tensor, the gaps between tensors included.
  int64_t numel() const { return buckets_.empty() ? 0 : buckets_.back().range.hi; }
  DType dtype() const { return dtype_; }
  const std::vector<Bucket>& buckets() const { return buckets_; }
  size_t bucket_of(size_t tensor) const { return bucket_of_[tensor]; }
  /// What travels at once: a bucket, or a stretch of it where a single tensor is larger than a bucket.
  std::vector<Range> pieces(const Bucket&) const;
  std::vector<Range> pieces() const;

  /// Tensor i inside the flat one, in its shape.
  Tensor view(const Tensor& flat, size_t tensor) const;
  /// The parts of all pieces that belong to a rank.
  std::vector<Range> parts(int rank) const;
  /// What of tensor i lies in the parts of a rank, in elements of that tensor.
  std::vector<Range> parts_of(size_t tensor, int rank) const;

 private:
  DType dtype_;
  int num_ranks_;
  int64_t bucket_elements_;
  std::vector<Shape> shapes_;
  std::vector<int64_t> first_;
  std::vector<size_t> bucket_of_;
  std::vector<Bucket> buckets_;
};

}  // namespace headway
