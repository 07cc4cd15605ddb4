#include "trainers/grad_reducer.h"

#include <fmt/format.h>

#include <string>

#include "core/error.h"

namespace headway {

GradReducer::GradReducer(Communicator& comm, Stream& stream, std::span<const Shape> shapes, DType dtype,
                         size_t bucket_bytes, GradSums sums)
    : comm_(comm), stream_(stream), sums_(sums), layout_(shapes, dtype, bucket_bytes, comm.size()) {
  flat_ = comm_.allocate({layout_.numel()}, dtype, stream_.device());
  flat_.fill_zero(stream_);
  for (size_t index = 0; index < shapes.size(); ++index) gradients_.push_back(layout_.view(flat_, index));
  reset();
}

std::vector<Tensor> GradReducer::summed() const {
  if (sums_ == GradSums::all) return {flat_};
  std::vector<Tensor> parts;
  for (const Range& part : layout_.parts(comm_.rank())) parts.push_back(flat_.slice(0, part.lo, part.hi));
  return parts;
}

void GradReducer::reset() {
  is_ready_.assign(gradients_.size(), false);
  num_missing_.clear();
  for (const FlatLayout::Bucket& bucket : layout_.buckets()) num_missing_.push_back(bucket.num_tensors);
  num_started_ = 0;
  pending_.clear();
  num_arrived_ = 0;
}

void GradReducer::ready(size_t index) {
  if (comm_.size() == 1) return;
  HEADWAY_CHECK(index < gradients_.size(), ShapeError,
                fmt::format("gradient {} does not exist, expected 0 to {}", index, gradients_.size() - 1));
  HEADWAY_CHECK(!is_ready_[index], ShapeError,
                fmt::format("gradient {} became ready twice in one step", index));
  is_ready_[index] = true;
  --num_missing_[layout_.bucket_of(index)];
  start_complete_buckets();
  while (num_arrived_ < pending_.size() && pending_[num_arrived_]->poll()) ++num_arrived_;
}

void GradReducer::start_complete_buckets() {
  for (; num_started_ < num_missing_.size() && num_missing_[num_started_] == 0; ++num_started_)
    for (const Range& piece : layout_.pieces(layout_.buckets()[num_started_])) {
      const Tensor elements = flat_.slice(0, piece.lo, piece.hi);
      pending_.push_back(sums_ == GradSums::all ? comm_.start_all_reduce(elements, Reduce::sum, stream_)
                                                : comm_.start_reduce_scatter(elements, Reduce::sum, stream_));
    }
}

void GradReducer::finish() {
  if (comm_.size() == 1) return;
  if (num_started_ < num_missing_.size()) {
    std::string missing;
    for (size_t index = 0; index < is_ready_.size(); ++index)
      if (!is_ready_[index]) missing += fmt::format(" {}", index);
    throw ShapeError("the gradients of this step are incomplete, never ready:" + missing);
  }
  // From the first on: on a GPU an arrived reduction must still be waited for by the stream.
  for (const auto& reduction : pending_) reduction->wait();
  reset();
}

}  // namespace headway
