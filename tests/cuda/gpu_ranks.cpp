// One rank with a GPU, under mpirun: gpu_ranks CASE. As mpi_ranks.cpp, for tensors in GPU memory.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>

#include "core/backend.h"
#include "core/comm/launch.h"
#include "tests/core/collective_cases.h"

namespace headway {
namespace {

constexpr double kTimeout_s = 5;

void collectives(Communicator& comm, Stream& stream) {
  const auto host = cpu_backend().make_stream();
  for (int round = 0; round < 2; ++round) {
    check_all_collectives(comm, Memory::of_the_device, stream);
    check_overlapping_reductions(comm, Memory::of_the_device, stream);
    check_equal_bits(comm, Memory::of_the_communicator, stream);
    check_split(comm, Memory::of_the_device, stream);
    // In between, what lies in host memory.
    check_all_collectives(comm, Memory::of_the_communicator, *host);
  }
  check_agreement(comm);
}

void throws_on_rank_1(Communicator& comm, Stream& stream) {
  const Tensor tensor = Tensor::zeros({1000}, DType::f32, stream);
  if (comm.rank() == 1) throw NumericError("planted");
  comm.all_reduce(tensor, Reduce::sum, stream);
  stream.synchronize();
}

void sleeps_on_rank_1(Communicator& comm, Stream& stream) {
  const Tensor tensor = Tensor::zeros({1000}, DType::f32, stream);
  comm.all_reduce(tensor, Reduce::sum, stream);
  stream.synchronize();
  if (comm.rank() == 1) sleep(120);
  comm.all_reduce(tensor, Reduce::sum, stream);
  stream.synchronize();  // the watchdog ends this
}

const std::map<std::string, void (*)(Communicator&, Stream&)> kCases = {
    {"collectives", collectives},
    {"throws_on_rank_1", throws_on_rank_1},
    {"sleeps_on_rank_1", sleeps_on_rank_1}};

// Without a GPU the test is skipped, or fails where one is required.
constexpr int kSkip = 77;

int run(const std::string& name) {
  const Launch launch = read_launch();
  const int count = num_cuda_devices();
  if (count == 0) {
    const char* const required = std::getenv("HEADWAY_REQUIRE_GPU");
    fmt::print(stderr, "no GPU is usable here\n");
    return required && std::string(required) == "1" ? 1 : kSkip;
  }
  // Ranks that share a GPU are no use but for tests: NCCL accepts them as ranks of different machines.
  if (count < launch.size) setenv("NCCL_HOSTID", std::to_string(launch.rank).c_str(), 1);
  const Device device{Device::Kind::cuda, launch.local_rank % count};
  const auto comm = Communicator::create(device, kTimeout_s);
  try {
    const auto stream = backend(device).make_stream();
    kCases.at(name)(*comm, *stream);
  } catch (const Error& error) {
    fmt::print(stderr, "rank {}: {}\n", comm->rank(), error.what());
    comm->abort(static_cast<int>(error.code()));
  } catch (const std::runtime_error& error) {
    fmt::print(stderr, "rank {}: {}\n", comm->rank(), error.what());
    comm->abort(1);
  }
  return 0;
}

}  // namespace
}  // namespace headway

int main(int argc, char** argv) {
  if (argc != 2 || !headway::kCases.contains(argv[1])) return 2;
  try {
    return headway::run(argv[1]);
  } catch (const headway::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(error.code());
  }
}
