// Memory of which every process of one machine has a copy, and in which each can reach all copies.
//
// Each rank creates anonymous memory (memfd: not limited by the size of /dev/shm, gone with the last process
// that maps it, however that ends) and maps that of the others through /proc/<pid>/fd. A random token in
// front of the data shows that what was mapped is what the other rank made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace headway {

/// Gathers one number per rank: values[own rank] in, all ranks' numbers out. Collective.
using Exchange = std::function<void(std::span<int64_t> values)>;

class SharedSegment {
 public:
  /// Collective. CommError on every rank when any of them fails; zero-filled, 64-byte aligned.
  SharedSegment(int rank, int size, uint64_t number, size_t bytes, const Exchange&);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  /// Counts the segments of a run, the same on every rank.
  uint64_t number() const { return number_; }
  size_t bytes() const { return bytes_; }
  /// Rank's copy.
  std::byte* copy_of(int rank) const { return mapped_[static_cast<size_t>(rank)] + kHeaderBytes; }

 private:
  // A page of its own keeps the data page-aligned.
  static constexpr size_t kHeaderBytes = 4096;
  void unmap() noexcept;

  uint64_t number_;
  size_t bytes_;
  std::vector<std::byte*> mapped_;  // by rank, each kHeaderBytes + bytes_ long
};

}  // namespace headway
