#include "trainers/flat_layout.h"

#include <algorithm>

namespace headway {
namespace {

constexpr int64_t kCacheLineBytes = 64;

int64_t rounded_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

}  // namespace

FlatLayout::FlatLayout(std::span<const Shape> shapes, DType dtype, size_t bucket_bytes, int num_ranks)
    : dtype_(dtype),
      num_ranks_(num_ranks),
      shapes_(shapes.begin(), shapes.end()),
      first_(shapes.size()),
      bucket_of_(shapes.size()) {
  const int64_t line = kCacheLineBytes / static_cast<int64_t>(size_of(dtype)), lines = line * num_ranks;
  bucket_elements_ = rounded_up(std::max(static_cast<int64_t>(bucket_bytes / size_of(dtype)), lines), lines);

  for (size_t tensor = shapes.size(); tensor-- > 0;) {
    const int64_t size = rounded_up(shapes[tensor].numel(), line);
    if (buckets_.empty() ||
        (buckets_.back().range.size() + size > bucket_elements_ && buckets_.back().range.size() > 0)) {
      const int64_t begin = buckets_.empty() ? 0 : rounded_up(buckets_.back().range.hi, lines);
      if (!buckets_.empty()) buckets_.back().range.hi = begin;
      buckets_.push_back({{begin, begin}, 0});
    }
    Bucket& bucket = buckets_.back();
    first_[tensor] = bucket.range.hi;
    bucket_of_[tensor] = buckets_.size() - 1;
    bucket.range.hi += size;
    ++bucket.num_tensors;
  }
  if (!buckets_.empty()) buckets_.back().range.hi = rounded_up(buckets_.back().range.hi, lines);
}

std::vector<Range> FlatLayout::pieces(const Bucket& bucket) const {
  std::vector<Range> pieces;
  for (int64_t lo = bucket.range.lo; lo < bucket.range.hi; lo += bucket_elements_)
    pieces.push_back({lo, std::min(lo + bucket_elements_, bucket.range.hi)});
  return pieces;
}

std::vector<Range> FlatLayout::pieces() const {
  std::vector<Range> all;
  for (const Bucket& bucket : buckets_)
    for (const Range& piece : pieces(bucket)) all.push_back(piece);
  return all;
}

Tensor FlatLayout::view(const Tensor& flat, size_t tensor) const {
  const int64_t first = first_.at(tensor);
  return flat.slice(0, first, first + shapes_[tensor].numel()).reshape(shapes_[tensor]);
}

std::vector<Range> FlatLayout::parts(int rank) const {
  std::vector<Range> parts = pieces();
  for (Range& part : parts) {
    const int64_t size = part.size() / num_ranks_;
    part.lo += size * rank;
    part.hi = part.lo + size;
  }
  return parts;
}

std::vector<Range> FlatLayout::parts_of(size_t tensor, int rank) const {
  const Range whole{first_.at(tensor), first_[tensor] + shapes_[tensor].numel()};
  std::vector<Range> inside;
  for (const Range& part : parts(rank)) {
    const Range common{std::max(part.lo, whole.lo), std::min(part.hi, whole.hi)};
    if (common.size() > 0) inside.push_back({common.lo - whole.lo, common.hi - whole.lo});
  }
  return inside;
}

}  // namespace headway
