// Errors a user can meet, one class per process exit status.
//
// Libraries throw; only main() turns an error into one line on stderr and an exit status. A message names
// the thing, its value and what was expected: "optim.lr = -1 is out of range: expected 0 to 1".
#pragma once

#include <stdexcept>
#include <string>

namespace headway {

/// Process exit statuses (sysexits' EX_TEMPFAIL for a run that wants to be started again).
enum class ExitCode : int {
  ok = 0,
  unexpected = 1,
  bad_usage = 2,
  bad_data = 3,
  bad_checkpoint = 4,
  out_of_memory = 5,
  numeric_failure = 6,
  io_failure = 7,
  comm_failure = 8,
  stopped_on_request = 75,
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

template <ExitCode Code>
class ErrorOf : public Error {
 public:
  explicit ErrorOf(const std::string& message) : Error(Code, message) {}
};

/// A recipe key, a command-line argument or a combination of them is not usable.
struct ConfigError : ErrorOf<ExitCode::bad_usage> {
  using ErrorOf::ErrorOf;
};
/// A tensor has the wrong rank, size or dtype: a bug in the caller, never reachable from a valid recipe.
struct ShapeError : ErrorOf<ExitCode::unexpected> {
  using ErrorOf::ErrorOf;
};
/// Training data is missing, damaged or outside the vocabulary.
struct DataError : ErrorOf<ExitCode::bad_data> {
  using ErrorOf::ErrorOf;
};
/// A checkpoint is missing, damaged, foreign or does not fit the recipe.
struct CheckpointError : ErrorOf<ExitCode::bad_checkpoint> {
  using ErrorOf::ErrorOf;
};
/// A device is absent or unusable, or has no kernel for an operation.
struct DeviceError : ErrorOf<ExitCode::unexpected> {
  using ErrorOf::ErrorOf;
};
/// An allocation failed.
struct MemoryError : ErrorOf<ExitCode::out_of_memory> {
  using ErrorOf::ErrorOf;
};
/// Loss or gradients stopped being finite beyond what the recipe allows.
struct NumericError : ErrorOf<ExitCode::numeric_failure> {
  using ErrorOf::ErrorOf;
};
/// Writing or reading a file failed (disk full, permission).
struct IoError : ErrorOf<ExitCode::io_failure> {
  using ErrorOf::ErrorOf;
};
/// A collective failed, a peer vanished or a deadline passed.
struct CommError : ErrorOf<ExitCode::comm_failure> {
  using ErrorOf::ErrorOf;
};

}  // namespace headway

/// Throws ErrorType(message) unless condition holds; the message expression is evaluated only then.
#define HEADWAY_CHECK(condition, ErrorType, message) \
  do {                                               \
    if (!(condition)) [[unlikely]]                   \
      throw ::headway::ErrorType(message);           \
  } while (false)
