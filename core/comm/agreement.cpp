#include "core/comm/agreement.h"

#include <new>
#include <optional>
#include <vector>

#include "core/error.h"

namespace headway {
namespace {

struct Failure {
  ExitCode code;
  std::string message;
};

std::optional<Failure> failure_of(const std::function<void()>& work) {
  try {
    work();
    return std::nullopt;
  } catch (const Error& error) {
    return Failure{error.code(), error.what()};
  } catch (const std::bad_alloc&) {
    return Failure{ExitCode::out_of_memory, "out of memory"};
  } catch (const std::exception& error) {
    return Failure{ExitCode::unexpected, error.what()};
  }
}

[[noreturn]] void rethrow(const Failure& failure) {
  switch (failure.code) {
    case ExitCode::bad_usage:
      throw ConfigError(failure.message);
    case ExitCode::bad_data:
      throw DataError(failure.message);
    case ExitCode::bad_checkpoint:
      throw CheckpointError(failure.message);
    case ExitCode::out_of_memory:
      throw MemoryError(failure.message);
    case ExitCode::numeric_failure:
      throw NumericError(failure.message);
    case ExitCode::io_failure:
      throw IoError(failure.message);
    case ExitCode::comm_failure:
      throw CommError(failure.message);
    default:
      throw Error(failure.code, failure.message);
  }
}

int64_t broadcast_integer(Communicator& comm, Stream& stream, int64_t value, int root) {
  const Tensor tensor = Tensor::from<int64_t>(std::span<const int64_t>(&value, 1), {1}, stream);
  comm.broadcast(tensor, root, stream);
  return tensor.to_vector<int64_t>(stream)[0];
}

}  // namespace

void agree(Communicator& comm, Stream& stream, const std::function<void()>& work) {
  const std::optional<Failure> mine = failure_of(work);
  if (comm.size() == 1) {
    if (mine) rethrow(*mine);
    return;
  }
  const int64_t place = mine ? comm.rank() : comm.size();
  const Tensor first = Tensor::from<int64_t>(std::span<const int64_t>(&place, 1), {1}, stream);
  comm.all_reduce(first, Reduce::min, stream);
  const int root = static_cast<int>(first.to_vector<int64_t>(stream)[0]);
  if (root == comm.size()) return;
  Failure shared = mine.value_or(Failure{ExitCode::unexpected, ""});
  shared.code =
      static_cast<ExitCode>(broadcast_integer(comm, stream, static_cast<int64_t>(shared.code), root));
  shared.message = broadcast_text(comm, stream, shared.message, root);
  if (root != 0) shared.message = "rank " + std::to_string(root) + ": " + shared.message;
  rethrow(shared);
}

std::string broadcast_text(Communicator& comm, Stream& stream, const std::string& text, int root) {
  if (comm.size() == 1) return text;
  const int64_t bytes = broadcast_integer(comm, stream, static_cast<int64_t>(text.size()), root);
  if (bytes == 0) return {};
  std::vector<uint8_t> values(text.begin(), text.end());
  values.resize(static_cast<size_t>(bytes));
  const Tensor tensor = Tensor::from<uint8_t>(values, {bytes}, stream);
  comm.broadcast(tensor, root, stream);
  const std::vector<uint8_t> received = tensor.to_vector<uint8_t>(stream);
  return {received.begin(), received.end()};
}

}  // namespace headway
