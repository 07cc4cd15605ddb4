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

class Stream;

/// Work of a stream that was recorded instead of run, to be run any number of times on the same memory.
class Graph {
 public:
  virtual ~Graph() = default;
  /// Adds one run of the work to the stream.
  virtual void launch(Stream&) = 0;
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
  /// From here to end_recording() work is recorded, not run. Its memory must stay where it is for as long as
  /// the graph lives (PrivateMemory), and the host must not wait for any of it. DeviceError on the CPU, which
  /// records nothing.
  virtual void begin_recording();
  virtual std::unique_ptr<Graph> end_recording();
  /// The CUDA stream; null on the CPU.
  virtual CUstream_st* native() const { return nullptr; }
  /// Memory for one kernel's intermediate results, 64-byte aligned, valid until the next call.
  std::span<std::byte> scratch(size_t bytes);

 protected:
  const std::shared_ptr<Storage>& scratch_storage() const { return scratch_; }

 private:
  Device device_;
  std::shared_ptr<Storage> scratch_;
};

}  // namespace headway
