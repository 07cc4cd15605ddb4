#include "core/stream.h"

namespace headway {

std::span<std::byte> Stream::scratch(size_t bytes) {
  if (!scratch_ || scratch_->bytes() < bytes) {
    scratch_.reset();
    scratch_ = Storage::allocate(bytes, device_);
  }
  return {static_cast<std::byte*>(scratch_->data()), bytes};
}

}  // namespace headway
