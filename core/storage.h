// Owning memory on a device, from a cache that keeps freed blocks for the next step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "core/device.h"

namespace headway {

class Storage {
 public:
  /// Uninitialised memory, 64-byte aligned; MemoryError when the device has no more. bytes may be 0.
  static std::shared_ptr<Storage> allocate(size_t bytes, Device);

  /// Uninitialised host memory for copies to and from a device, which need not stage it: they run while the
  /// host goes on, so keep it until they have ended. For the CPU itself, memory like any other.
  static std::shared_ptr<Storage> allocate_host(size_t bytes, Device copied_to);

  /// Memory that someone else provides (shared with other processes, mapped from a file): counted in the
  /// device's statistics, given back by calling release.
  static std::shared_ptr<Storage> adopt(void* data, size_t bytes, Device, std::function<void()> release);

  /// Takes the place of allocate() on a device, for tests that look at memory; an empty function ends it.
  static void replace_allocation(Device, std::function<std::shared_ptr<Storage>(size_t bytes)>);

  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  Storage(void* data, size_t bytes, size_t block_bytes, Device device)
      : data_(data), bytes_(bytes), block_bytes_(block_bytes), device_(device) {}

  void* data_;
  size_t bytes_;        // asked for
  size_t block_bytes_;  // taken from the cache, at least bytes_
  Device device_;
  std::function<void()> release_;  // set for memory that does not come from the cache
};

/// While one is entered, what is allocated on its device is its own: nothing else gets that memory later, so
/// recorded work may use it again. What is given back serves later allocations of the same.
class PrivateMemory {
 public:
  explicit PrivateMemory(Device);
  /// What it had goes to the device's other users.
  ~PrivateMemory();
  PrivateMemory(const PrivateMemory&) = delete;
  PrivateMemory& operator=(const PrivateMemory&) = delete;

  /// Entered for its lifetime; one at a time on a device.
  class Scope {
   public:
    explicit Scope(PrivateMemory&);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Device device_;
  };

 private:
  Device device_;
};

struct MemoryStats {
  size_t in_use_bytes = 0;       // in live storages
  size_t peak_in_use_bytes = 0;  // largest in_use_bytes since the last reset
  size_t reserved_bytes = 0;     // taken from the device, in use or cached
  size_t peak_reserved_bytes = 0;
  uint64_t num_device_allocations = 0;  // calls that reached the device: constant in steady state
};

MemoryStats memory_stats(Device);
void reset_peak_memory(Device);
/// Gives cached blocks back to the device.
void release_cached_memory(Device);

}  // namespace headway
