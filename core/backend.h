// What a kind of device must offer. One object per device, alive until the program ends.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "core/device.h"

namespace headway {

class Stream;

class Backend {
 public:
  virtual ~Backend() = default;

  /// Memory aligned to 64 bytes at least; MemoryError when there is none. bytes > 0.
  virtual void* allocate(size_t bytes) = 0;
  virtual void deallocate(void* memory) noexcept = 0;
  /// Host memory that copies to and from the device need not stage; MemoryError when there is none.
  virtual void* allocate_host(size_t bytes) = 0;
  virtual void deallocate_host(void* memory) noexcept = 0;
  /// Ordered on the stream, whose device is this backend's; one of the two sides may be host memory.
  virtual void copy(void* to, const void* from, size_t bytes, Stream&) = 0;
  virtual void fill_zero(void* memory, size_t bytes, Stream&) = 0;
  virtual std::unique_ptr<Stream> make_stream() = 0;
  /// One line for the user: "CPU, 2 threads" or the name of the GPU.
  virtual std::string description() const = 0;
  /// Where the device sits in the machine, as the driver writes it; empty for the CPU.
  virtual std::string bus_id() const { return {}; }
};

/// The backend of a device; DeviceError with the reason when it is not usable on this machine.
Backend& backend(Device);

/// What the calling thread does until end_range(), shown by NVIDIA's profilers (NVTX); nothing without CUDA.
void begin_range(const char* name);
void end_range();

/// Number of usable CUDA devices: 0 where CUDA was not built in, no driver answers, or the first GPU is not
/// of the generation the kernels are compiled for.
int num_cuda_devices();
/// The backend of one CUDA device; DeviceError where CUDA is absent.
Backend& cuda_backend(int index);
Backend& cpu_backend();

}  // namespace headway
