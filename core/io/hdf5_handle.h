// Ownership of HDF5 identifiers and the library's own words for what went wrong.
//
// HDF5's identifiers are 64-bit integers and its status an int; hdf5.h itself stays out of every header.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace headway {

using Hdf5Id = int64_t;

/// Prepares the library for this thread: no messages on stderr, no exit handler (it crashes after a failed
/// close, as on a full disk), and no filter plugin is ever loaded. Call before anything else of HDF5.
void prepare_hdf5();

/// The most specific message on this thread's error stack, such as "No space left on device".
std::string innermost_hdf5_error();

/// Throws ErrorType("<file>: cannot <doing>: <innermost message>") for a negative result of an HDF5 call.
template <class ErrorType, class Result>
Result checked(Result result, std::string_view file, std::string_view doing) {
  if (result < 0) [[unlikely]]
    throw ErrorType(std::string(file) + ": cannot " + std::string(doing) + ": " + innermost_hdf5_error());
  return result;
}

/// Owns one identifier of any kind; negative means none.
class Hdf5Handle {
 public:
  Hdf5Handle() = default;
  explicit Hdf5Handle(Hdf5Id id) : id_(id) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  ~Hdf5Handle() {
    if (id_ >= 0) close();
  }

  Hdf5Id get() const { return id_; }
  /// Closes now and returns the library's status: small writes may fail only here.
  int close();

 private:
  Hdf5Id id_ = -1;
};

}  // namespace headway
