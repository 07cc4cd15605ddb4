// Sums gradients over the ranks of a run while the backward pass is still computing others.
//
//   gradient(i) := sum over ranks of gradient(i)        (the loss is already divided by the global token
//   count)
//
// All gradients lie in one flat tensor (flat_layout.h), so reducing a bucket copies nothing. A bucket's
// reduction starts when all its gradients are final and all earlier buckets have started: ranks may finish
// gradients in different orders. A gradient larger than a bucket is reduced in pieces of a bucket's size.
//
// Where the optimiser is sharded, a rank receives only the sums of the parts it updates (reduce-scatter), and
// what the other parts hold after finish() is undefined.
//
// A bucket's sums are added in rank order where the transport does so (shared memory, threads), and have
// equal bits on all ranks always.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "core/comm/communicator.h"
#include "trainers/flat_layout.h"

namespace headway {

/// What a rank needs of the summed gradients.
enum class GradSums : uint8_t { all, own_parts };

class GradReducer {
 public:
  /// Allocates the gradients, zero-filled, on the stream's device. Collective; shapes in the order in which
  /// the parameters were created, the same on every rank; dtype f32 or f64.
  GradReducer(Communicator&, Stream&, std::span<const Shape> shapes, DType dtype, size_t bucket_bytes,
              GradSums sums = GradSums::all);
  /// Must not happen between the first ready() of a step and its finish(): peers still write to the
  /// gradients.
  ~GradReducer() = default;
  GradReducer(const GradReducer&) = delete;
  GradReducer& operator=(const GradReducer&) = delete;

  const FlatLayout& layout() const { return layout_; }
  /// Where the gradient of parameter i collects: contiguous, of the parameter's shape.
  const Tensor& gradient(size_t index) const { return gradients_.at(index); }
  /// All gradients as one vector; the gaps between them are zeros.
  const Tensor& flat() const { return flat_; }
  /// What of flat() is summed on this rank after finish().
  std::vector<Tensor> summed() const;

  /// Gradient i is final and not touched until finish() returns. Once per gradient and step; ShapeError
  /// otherwise.
  void ready(size_t index);
  /// Waits until all gradients are sums (on a GPU, the stream waits). ShapeError naming gradients that never
  /// became ready.
  void finish();

 private:
  void start_complete_buckets();
  void reset();

  Communicator& comm_;
  Stream& stream_;
  GradSums sums_;
  FlatLayout layout_;
  Tensor flat_;
  std::vector<Tensor> gradients_;
  std::vector<size_t> num_missing_;  // by bucket: gradients that are not ready in this step
  std::vector<bool> is_ready_;
  size_t num_started_ = 0;  // buckets
  std::vector<std::unique_ptr<PendingReduce>> pending_;
  size_t num_arrived_ = 0;  // of pending_, from the front
};

}  // namespace headway
