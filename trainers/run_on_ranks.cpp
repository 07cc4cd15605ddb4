#include "trainers/run_on_ranks.h"

#include <fmt/format.h>
#include <omp.h>

#include <chrono>
#include <cstdio>
#include <thread>

#include "core/backend.h"
#include "core/comm/launch.h"
#include "core/failure.h"

namespace headway {
namespace {

// Open MPI 4.1 needs about a second to end the other ranks.
constexpr auto kRankZeroFirst = std::chrono::seconds(2);

Device device_of_rank(Device device, int local_rank) {
  const int count = num_cuda_devices();
  if (device.kind == Device::Kind::cuda && device.index == 0 && count > 0) device.index = local_rank % count;
  return device;
}

}  // namespace

void print_error(const std::string& message, int rank, int size) {
  if (rank > 0) std::this_thread::sleep_for(kRankZeroFirst);
  std::fflush(stdout);  // the error comes after what was said before it
  print_note(size > 1 ? fmt::format("rank {}: {}", rank, message) : message);
}

ExitCode run_on_ranks(const std::string& device_name, double timeout_s,
                      const std::function<ExitCode(Communicator&, Stream&)>& work) {
  const Launch launch = read_launch();
  const ThreadPlan threads = plan_threads(launch, read_cores());
  omp_set_num_threads(threads.num_threads);
  if (!threads.warning.empty() && launch.rank == 0) print_note(threads.warning);

  const Device device = device_of_rank(Device::parse(device_name), launch.local_rank);
  const auto comm = Communicator::create(device, timeout_s);
  try {
    const auto stream = backend(device).make_stream();
    return work(*comm, *stream);
  } catch (...) {
    const Failure failure = current_failure();
    print_error(failure.message, comm->rank(), comm->size());
    comm->abort(static_cast<int>(failure.code));
  }
  return ExitCode::unexpected;
}

}  // namespace headway
