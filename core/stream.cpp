#include "core/stream.h"

#include "core/error.h"

namespace headway {

void Stream::begin_recording() { throw DeviceError("a stream of the CPU cannot record its work"); }
std::unique_ptr<Graph> Stream::end_recording() { throw DeviceError("the stream is not recording"); }

std::span<std::byte> Stream::scratch(size_t bytes) {
  if (!scratch_ || scratch_->bytes() < bytes) {
    scratch_.reset();
    scratch_ = Storage::allocate(bytes, device_);
  }
  return {static_cast<std::byte*>(scratch_->data()), bytes};
}

}  // namespace headway
