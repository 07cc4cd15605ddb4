// A file without a name, for what is too large to be held in the memory of every process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/io/descriptor.h"

namespace headway {

/// It lies in $TMPDIR (/tmp where that is not set), is made by the first append() and is gone with the last
/// process that has it open, however that ends.
class ScratchFile {
 public:
  ScratchFile() = default;
  /// What another process of this machine has open under this number, to be read; empty for a number below 0.
  /// IoError where it cannot be reached.
  static ScratchFile of_process(int64_t pid, int64_t descriptor);

  /// -1 where nothing has been written.
  int descriptor() const { return file_.get(); }
  int64_t size() const { return size_; }
  /// IoError, with the folder's name, where the folder cannot be written to or is full.
  void append(std::span<const std::byte>);
  /// Fills `into` with the bytes from offset on. IoError where the file has fewer.
  void read(int64_t offset, std::span<std::byte> into) const;

 private:
  Descriptor file_;
  int64_t size_ = 0;
};

}  // namespace headway
