// An ordered queue of work on one device, and events in it.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "core/device.h"
#include "core/storage.h"

struct CUstream_st;

namespace headway {

/// A point in a stream. The CPU's stream runs everything at once, so its events are always complete.
class Event {
 public:
  virtual ~Event() = default;
  virtual bool is_complete() const { return true; }
  virtual void synchronize() const {}
};

class Stream {
 public:
  explicit Stream(Device device) : device_(device) {}
  virtual ~Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device device() const { return device_; }
  virtual void synchronize() {}
  virtual std::shared_ptr<Event> record() { return std::make_shared<Event>(); }
  virtual void wait(const Event&) {}
  /// The CUDA stream; null on the CPU.
  virtual CUstream_st* native() const { return nullptr; }
  /// Memory for one kernel's intermediate results, 64-byte aligned, valid until the next call.
  std::span<std::byte> scratch(size_t bytes);

 private:
  Device device_;
  std::shared_ptr<Storage> scratch_;
};

}  // namespace headway
