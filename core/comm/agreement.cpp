#include "core/comm/agreement.h"

#include <chrono>
#include <future>
#include <optional>
#include <vector>

#include "core/backend.h"
#include "core/failure.h"

namespace headway {
namespace {

std::optional<Failure> failure_of(const std::function<void()>& work) {
  try {
    work();
    return std::nullopt;
  } catch (...) {
    return current_failure();
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

template <class T>
std::vector<T> broadcast_values(Communicator& comm, std::span<const T> values, int root) {
  const auto host = cpu_backend().make_stream();
  const Tensor tensor = Tensor::from<T>(values, {static_cast<int64_t>(values.size())}, *host);
  comm.broadcast(tensor, root, *host);
  return tensor.to_vector<T>(*host);
}

int64_t broadcast_integer(Communicator& comm, int64_t value, int root) {
  return broadcast_values<int64_t>(comm, {&value, 1}, root)[0];
}

template <class T>
std::vector<T> reduce_values(Communicator& comm, std::span<const T> values, Reduce reduce) {
  const auto host = cpu_backend().make_stream();
  const Tensor tensor = Tensor::from<T>(values, {static_cast<int64_t>(values.size())}, *host);
  comm.all_reduce(tensor, reduce, *host);
  return tensor.to_vector<T>(*host);
}

}  // namespace

void agree(Communicator& comm, const std::function<void()>& work) {
  const std::optional<Failure> mine = failure_of(work);
  if (comm.size() == 1) {
    if (mine) rethrow(*mine);
    return;
  }
  const int64_t place = mine ? comm.rank() : comm.size();
  const int root =
      static_cast<int>(all_reduce_values(comm, std::span<const int64_t>(&place, 1), Reduce::min)[0]);
  if (root == comm.size()) return;
  Failure shared = mine.value_or(Failure{ExitCode::unexpected, ""});
  shared.code = static_cast<ExitCode>(broadcast_integer(comm, static_cast<int64_t>(shared.code), root));
  shared.message = broadcast_text(comm, shared.message, root);
  if (root != 0) shared.message = "rank " + std::to_string(root) + ": " + shared.message;
  rethrow(shared);
}

void agree_on_long_work(Communicator& comm, const std::function<void()>& work) {
  if (comm.size() == 1) return agree(comm, work);
  constexpr auto kBeat = std::chrono::milliseconds(200);  // well below the shortest time limit, one second
  std::future<void> mine = std::async(std::launch::async, work);
  for (bool all_done = false; !all_done;) {
    const int64_t is_done = mine.wait_for(kBeat) == std::future_status::ready;
    all_done = all_reduce_values(comm, std::span(&is_done, 1), Reduce::min)[0] != 0;
  }
  agree(comm, [&] { mine.get(); });
}

std::string broadcast_text(Communicator& comm, const std::string& text, int root) {
  if (comm.size() == 1) return text;
  const int64_t bytes = broadcast_integer(comm, static_cast<int64_t>(text.size()), root);
  if (bytes == 0) return {};
  std::vector<uint8_t> values(text.begin(), text.end());
  values.resize(static_cast<size_t>(bytes));
  const std::vector<uint8_t> received = broadcast_values<uint8_t>(comm, values, root);
  return {received.begin(), received.end()};
}

std::vector<double> all_reduce_values(Communicator& comm, std::span<const double> values, Reduce reduce) {
  return reduce_values(comm, values, reduce);
}

std::vector<int64_t> all_reduce_values(Communicator& comm, std::span<const int64_t> values, Reduce reduce) {
  return reduce_values(comm, values, reduce);
}

}  // namespace headway
