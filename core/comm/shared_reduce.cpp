#include "core/comm/shared_reduce.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "core/comm/reduce_elements.h"
#include "core/error.h"

namespace headway {

SharedReduce::SharedReduce(int rank, int size, Exchange exchange)
    : rank_(rank), size_(size), exchange_(std::move(exchange)) {
  board_memory_ = std::make_shared<SharedSegment>(rank_, size_, num_segments_++, sizeof(Board), exchange_);
  // Shared memory starts as zeros, which is a board without reductions, so nobody has to wait for another's.
  for (int other = 0; other < size_; ++other)
    boards_.push_back(std::launder(reinterpret_cast<Board*>(board_memory_->copy_of(other))));
}

Tensor SharedReduce::allocate(const Shape& shape, DType dtype) {
  const size_t bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
  auto segment = std::make_shared<const SharedSegment>(rank_, size_, num_segments_++, bytes, exchange_);
  std::erase_if(segments_, [](const auto& known) { return known.expired(); });
  segments_.push_back(segment);
  std::byte* const own = segment->copy_of(rank_);
  auto storage = Storage::adopt(own, bytes, Device{}, [segment]() mutable { segment.reset(); });
  segment.reset();
  return Tensor::over(std::move(storage), shape, dtype);
}

std::shared_ptr<const SharedSegment> SharedReduce::segment_of(const Tensor& tensor) const {
  const auto* const first = static_cast<const std::byte*>(tensor.raw());
  for (const auto& known : segments_)
    if (auto segment = known.lock()) {
      const std::byte* const own = segment->copy_of(rank_);
      if (!std::less<>()(first, own) && first + tensor.bytes() <= own + segment->bytes()) return segment;
    }
  return nullptr;
}

uint64_t SharedReduce::begin(const Tensor& tensor, Work work, Reduce reduce) {
  auto segment = segment_of(tensor);
  HEADWAY_CHECK(segment, CommError, "a tensor outside shared memory cannot be reduced there");
  const auto* const first = static_cast<const std::byte*>(tensor.raw());
  const Request request{segment->number(),
                        static_cast<uint64_t>(first - segment->copy_of(rank_)),
                        tensor.numel(),
                        tensor.dtype(),
                        work,
                        reduce};
  pending_.push_back({request, tensor, std::move(segment)});
  const uint64_t number = num_forgotten_ + pending_.size() - 1;
  publish();
  return number;
}

void SharedReduce::publish() {
  Board& own = *boards_[static_cast<size_t>(rank_)];
  const uint64_t num_begun = num_forgotten_ + pending_.size();
  while (num_published_ < num_begun) {
    // The slot is free once every rank has read what it held before.
    if (num_published_ >= kSlots && least_combined() < num_published_ - kSlots + 1) return;
    own.requests[num_published_ % kSlots] = pending_[num_published_ - num_forgotten_].request;
    own.num_published.store(++num_published_, std::memory_order_release);
  }
}

void SharedReduce::advance() {
  publish();
  while (num_combined_ < num_published_) {
    const bool all_published = std::all_of(boards_.begin(), boards_.end(), [&](const Board* board) {
      return board->num_published.load(std::memory_order_acquire) > num_combined_;
    });
    if (!all_published) break;
    combine(pending_[num_combined_ - num_forgotten_], num_combined_);
    boards_[static_cast<size_t>(rank_)]->num_combined.store(++num_combined_, std::memory_order_release);
  }
  for (const uint64_t finished = least_combined(); num_forgotten_ < finished; ++num_forgotten_)
    pending_.pop_front();
}

void SharedReduce::combine(const Pending& pending, uint64_t number) const {
  const Request& request = pending.request;
  std::vector<std::byte*> copies;
  for (int other = 0; other < size_; ++other) {
    const Request& theirs = boards_[static_cast<size_t>(other)]->requests[number % kSlots];
    HEADWAY_CHECK(
        theirs == request, CommError,
        fmt::format("ranks disagree about what to reduce: rank {} has {} elements of {}, rank {} has {} "
                    "elements of {}, or their order differs",
                    rank_, request.numel, to_string(request.dtype), other, theirs.numel,
                    to_string(theirs.dtype)));
    copies.push_back(pending.segment->copy_of(other) + request.first_byte);
  }
  const std::vector<void*> all(copies.begin(), copies.end());
  void* const own = all[static_cast<size_t>(rank_)];
  const int64_t part = request.numel / size_;
  if (request.work == Work::reduce_scatter)
    return reduce_elements(all, {&own, 1}, part * rank_, part * (rank_ + 1), request.dtype, request.reduce);
  if (request.work == Work::all_gather) {
    const size_t bytes = static_cast<size_t>(part) * size_of(request.dtype);
    const size_t first = bytes * static_cast<size_t>(rank_);
    for (std::byte* const copy : copies)
      if (copy != own) std::memcpy(copy + first, static_cast<std::byte*>(own) + first, bytes);
    return;
  }
  // Parts end on whole blocks, so that no two ranks write to one cache line.
  constexpr int64_t kBlock = 1024;
  const int64_t num_blocks = (request.numel + kBlock - 1) / kBlock;
  const auto part_begin = [&](int rank) {
    return std::min(num_blocks * rank / size_ * kBlock, request.numel);
  };
  reduce_elements(all, all, part_begin(rank_), part_begin(rank_ + 1), request.dtype, request.reduce);
}

uint64_t SharedReduce::least_combined() const {
  uint64_t least = num_combined_;
  for (const Board* board : boards_)
    least = std::min(least, board->num_combined.load(std::memory_order_acquire));
  return least;
}

bool SharedReduce::is_finished(uint64_t number) const { return number < num_forgotten_; }

std::string SharedReduce::missing_ranks(uint64_t number) const {
  std::string missing;
  for (int other = 0; other < size_; ++other)
    if (boards_[static_cast<size_t>(other)]->num_published.load(std::memory_order_acquire) <= number)
      missing += fmt::format(" {}", other);
  return missing;
}

}  // namespace headway
