#include "core/storage.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "core/backend.h"
#include "core/error.h"

namespace headway {
namespace {

// Small blocks are rounded to 512 bytes, larger ones to 1/8 of their size's power of two, so that the shapes
// of a step reuse each other's blocks and at most an eighth is wasted.
size_t rounded_size(size_t bytes) {
  constexpr size_t kSmallest = 512;
  if (bytes <= 4096) return (std::max(bytes, kSmallest) + kSmallest - 1) / kSmallest * kSmallest;
  const size_t step = std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}

// A cached block serves a request up to this many times smaller than itself.
constexpr double kLargestReuse = 1.25;

class BlockCache {
 public:
  std::function<std::shared_ptr<Storage>(size_t bytes)> replacement;  // of Storage::allocate, in tests

  BlockCache(Device device, bool on_host) : device_(device), on_host_(on_host) {}

  void count_adopted(size_t bytes) {
    std::lock_guard lock(mutex_);
    stats_.reserved_bytes += bytes;
    stats_.peak_reserved_bytes = std::max(stats_.peak_reserved_bytes, stats_.reserved_bytes);
    count_in_use(bytes);
  }

  void count_released(size_t bytes) {
    std::lock_guard lock(mutex_);
    stats_.reserved_bytes -= bytes;
    stats_.in_use_bytes -= bytes;
  }

  void* take(size_t* block_bytes) {
    const size_t wanted = *block_bytes;
    std::lock_guard lock(mutex_);
    void* block = nullptr;
    if (entered_) block = take_from(entered_->free, block_bytes);
    if (!block) {
      block = take_from(free_, block_bytes);
      if (!block) block = allocate(wanted);
      if (entered_) owners_[block] = entered_;
    }
    count_in_use(*block_bytes);
    return block;
  }

  void give_back(void* block, size_t block_bytes) {
    std::lock_guard lock(mutex_);
    stats_.in_use_bytes -= block_bytes;
    const auto owner = owners_.find(block);
    (owner == owners_.end() ? free_ : owner->second->free).emplace(block_bytes, block);
  }

  void enter(const PrivateMemory* memory) {
    std::lock_guard lock(mutex_);
    entered_ = &private_[memory];
  }
  void leave() {
    std::lock_guard lock(mutex_);
    entered_ = nullptr;
  }
  void forget(const PrivateMemory* memory) {
    std::lock_guard lock(mutex_);
    const auto own = private_.find(memory);
    if (own == private_.end()) return;
    free_.merge(own->second.free);
    std::erase_if(owners_, [&](const auto& entry) { return entry.second == &own->second; });
    private_.erase(own);
  }

  MemoryStats stats() const {
    std::lock_guard lock(mutex_);
    return stats_;
  }

  void reset_peak() {
    std::lock_guard lock(mutex_);
    stats_.peak_in_use_bytes = stats_.in_use_bytes;
    stats_.peak_reserved_bytes = stats_.reserved_bytes;
  }

  void release() {
    std::lock_guard lock(mutex_);
    release_free_blocks();
  }

 private:
  using FreeBlocks = std::multimap<size_t, void*>;
  struct Private {
    FreeBlocks free;
  };

  /// Null where none fits; otherwise its size is in block_bytes.
  static void* take_from(FreeBlocks& blocks, size_t* block_bytes) {
    const auto found = blocks.lower_bound(*block_bytes);
    if (found == blocks.end() ||
        static_cast<double>(found->first) > kLargestReuse * static_cast<double>(*block_bytes))
      return nullptr;
    *block_bytes = found->first;
    void* const block = found->second;
    blocks.erase(found);
    return block;
  }

  void count_in_use(size_t bytes) {
    stats_.in_use_bytes += bytes;
    stats_.peak_in_use_bytes = std::max(stats_.peak_in_use_bytes, stats_.in_use_bytes);
  }

  void* allocate(size_t bytes) {
    void* block = nullptr;
    try {
      block = ask_backend(bytes);
    } catch (const MemoryError&) {
      if (free_.empty()) throw;
      release_free_blocks();  // what is cached may be all that is missing
      block = ask_backend(bytes);
    }
    ++stats_.num_device_allocations;
    stats_.reserved_bytes += bytes;
    stats_.peak_reserved_bytes = std::max(stats_.peak_reserved_bytes, stats_.reserved_bytes);
    return block;
  }

  void* ask_backend(size_t bytes) {
    return on_host_ ? backend(device_).allocate_host(bytes) : backend(device_).allocate(bytes);
  }

  void release_free_blocks() {
    for (const auto& [bytes, block] : free_) {
      on_host_ ? backend(device_).deallocate_host(block) : backend(device_).deallocate(block);
      stats_.reserved_bytes -= bytes;
    }
    free_.clear();
  }

  Device device_;
  bool on_host_;  // blocks are host memory for the device's copies
  mutable std::mutex mutex_;
  FreeBlocks free_;
  std::map<const PrivateMemory*, Private> private_;
  Private* entered_ = nullptr;
  std::unordered_map<void*, Private*> owners_;  // of blocks that are private
  MemoryStats stats_;
};

// Caches are never destroyed: storages may outlive main's locals.
BlockCache& cache_of(Device device, bool on_host = false) {
  static std::mutex mutex;
  static auto& caches = *new std::array<std::map<std::pair<int, bool>, BlockCache*>, Device::kNumKinds>();
  std::lock_guard lock(mutex);
  BlockCache*& cache = caches[static_cast<size_t>(device.kind)][{device.index, on_host}];
  if (!cache) cache = new BlockCache(device, on_host);
  return *cache;
}

}  // namespace

std::shared_ptr<Storage> Storage::allocate(size_t bytes, Device device) {
  if (const auto& other = cache_of(device).replacement) return other(bytes);
  size_t block_bytes = rounded_size(bytes);
  void* data = cache_of(device).take(&block_bytes);
  return std::shared_ptr<Storage>(new Storage(data, bytes, block_bytes, device));
}

void Storage::replace_allocation(Device device, std::function<std::shared_ptr<Storage>(size_t)> allocate) {
  cache_of(device).replacement = std::move(allocate);
}

std::shared_ptr<Storage> Storage::allocate_host(size_t bytes, Device copied_to) {
  if (copied_to.kind == Device::Kind::cpu) return allocate(bytes, copied_to);
  size_t block_bytes = rounded_size(bytes);
  BlockCache& cache = cache_of(copied_to, true);
  void* const data = cache.take(&block_bytes);
  return adopt(data, bytes, Device{}, [&cache, data, block_bytes] { cache.give_back(data, block_bytes); });
}

std::shared_ptr<Storage> Storage::adopt(void* data, size_t bytes, Device device,
                                        std::function<void()> release) {
  cache_of(device).count_adopted(bytes);
  std::shared_ptr<Storage> storage(new Storage(data, bytes, bytes, device));
  storage->release_ = std::move(release);
  return storage;
}

Storage::~Storage() {
  if (release_) {
    cache_of(device_).count_released(block_bytes_);
    release_();
  } else {
    cache_of(device_).give_back(data_, block_bytes_);
  }
}

PrivateMemory::PrivateMemory(Device device) : device_(device) {}
PrivateMemory::~PrivateMemory() { cache_of(device_).forget(this); }
PrivateMemory::Scope::Scope(PrivateMemory& memory) : device_(memory.device_) {
  cache_of(device_).enter(&memory);
}
PrivateMemory::Scope::~Scope() { cache_of(device_).leave(); }

MemoryStats memory_stats(Device device) { return cache_of(device).stats(); }
void reset_peak_memory(Device device) { cache_of(device).reset_peak(); }
void release_cached_memory(Device device) { cache_of(device).release(); }

}  // namespace headway
