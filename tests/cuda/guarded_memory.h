// Memory of a GPU for kernels under test: while one lives, everything allocated there holds NaN, so that an
// element nobody wrote shows, and has a margin on both sides, so that a write outside shows. Nothing is used
// twice.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/storage.h"
#include "core/stream.h"

namespace headway::testing {

class GuardedMemory {
 public:
  explicit GuardedMemory(Device device) : device_(device), stream_(backend(device).make_stream()) {
    Storage::replace_allocation(device, [this](size_t bytes) { return allocate(bytes); });
  }
  /// All work on the device's memory must have ended, and all tensors must be gone.
  ~GuardedMemory() {
    Storage::replace_allocation(device_, {});
    size_t num_damaged = 0;
    for (const Block& block : blocks_) {
      num_damaged += !is_untouched(block.data, kMargin);
      num_damaged += !is_untouched(block.data + kMargin + block.bytes, block.total - kMargin - block.bytes);
      backend(device_).deallocate(block.data);
    }
    EXPECT_GT(blocks_.size(), 0u);
    EXPECT_EQ(num_damaged, 0u) << "margins were written to";
  }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

 private:
  static constexpr size_t kMargin = 512;
  static constexpr unsigned char kMark = 0xFF;  // NaN in every floating-point type

  struct Block {
    std::byte* data;
    size_t bytes, total;
  };

  std::shared_ptr<Storage> allocate(size_t bytes) {
    const size_t total = 2 * kMargin + (bytes + kMargin - 1) / kMargin * kMargin;
    auto* const data = static_cast<std::byte*>(backend(device_).allocate(total));
    const std::vector<unsigned char> marks(total, kMark);
    backend(device_).copy(data, marks.data(), total, *stream_);
    stream_->synchronize();
    blocks_.push_back({data, bytes, total});
    return Storage::adopt(data + kMargin, bytes, device_, [] {});
  }

  bool is_untouched(const std::byte* margin, size_t bytes) {
    std::vector<unsigned char> values(bytes);
    backend(device_).copy(values.data(), margin, bytes, *stream_);
    stream_->synchronize();
    return values == std::vector<unsigned char>(bytes, kMark);
  }

  Device device_;
  std::unique_ptr<Stream> stream_;
  std::vector<Block> blocks_;
};

}  // namespace headway::testing
