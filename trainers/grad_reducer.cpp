#include "trainers/grad_reducer.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "core/error.h"

namespace headway {
namespace {

constexpr int64_t kCacheLineBytes = 64;

int64_t rounded_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

}  // namespace

GradReducer::GradReducer(Communicator& comm, Stream& stream, std::span<const Shape> shapes, DType dtype,
                         size_t bucket_bytes)
    : comm_(comm), stream_(stream) {
  const int64_t line = kCacheLineBytes / static_cast<int64_t>(size_of(dtype));
  bucket_elements_ = rounded_up(std::max(static_cast<int64_t>(bucket_bytes / size_of(dtype)), line), line);

  std::vector<int64_t> first(shapes.size());
  bucket_of_.resize(shapes.size());
  int64_t end = 0;
  for (size_t index = shapes.size(); index-- > 0;) {
    const int64_t next = end + rounded_up(shapes[index].numel(), line);
    if (buckets_.empty() || (next - buckets_.back().lo > bucket_elements_ && end > buckets_.back().lo))
      buckets_.push_back({end, end, 0, 0});
    buckets_.back().hi = next;
    ++buckets_.back().num_gradients;
    bucket_of_[index] = buckets_.size() - 1;
    first[index] = end;
    end = next;
  }

  flat_ = comm_.allocate({end}, dtype, stream_.device());
  flat_.fill_zero(stream_);
  for (size_t index = 0; index < shapes.size(); ++index)
    gradients_.push_back(
        flat_.slice(0, first[index], first[index] + shapes[index].numel()).reshape(shapes[index]));
  reset();
}

void GradReducer::reset() {
  is_ready_.assign(gradients_.size(), false);
  for (Bucket& bucket : buckets_) bucket.num_missing = bucket.num_gradients;
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
  --buckets_[bucket_of_[index]].num_missing;
  start_complete_buckets();
  while (num_arrived_ < pending_.size() && pending_[num_arrived_]->poll()) ++num_arrived_;
}

void GradReducer::start_complete_buckets() {
  for (; num_started_ < buckets_.size() && buckets_[num_started_].num_missing == 0; ++num_started_) {
    const Bucket& bucket = buckets_[num_started_];
    for (int64_t lo = bucket.lo; lo < bucket.hi; lo += bucket_elements_)
      pending_.push_back(comm_.start_all_reduce(
          flat_.slice(0, lo, std::min(lo + bucket_elements_, bucket.hi)), Reduce::sum, stream_));
  }
}

void GradReducer::finish() {
  if (comm_.size() == 1) return;
  if (num_started_ < buckets_.size()) {
    std::string missing;
    for (size_t index = 0; index < is_ready_.size(); ++index)
      if (!is_ready_[index]) missing += fmt::format(" {}", index);
    throw ShapeError("the gradients of this step are incomplete, never ready:" + missing);
  }
  for (; num_arrived_ < pending_.size(); ++num_arrived_) pending_[num_arrived_]->wait();
  reset();
}

}  // namespace headway
