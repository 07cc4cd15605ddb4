// One rank of a test under mpirun: mpi_ranks CASE. Ends as the headway program does: an error is one line on
// stderr and the error's status for every rank.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "collective_cases.h"
#include "core/backend.h"
#include "core/comm/agreement.h"
#include "core/comm/launch.h"
#include "core/comm/mpi.h"

namespace headway {
namespace {

constexpr double kTimeout_s = 2;

// mpirun did start several ranks, and MPI says the same as the environment did.
void check_ranks(Communicator& comm) {
  const Launch launch = read_launch();
  if (!launch.has_launcher || comm.rank() != launch.rank || comm.size() != launch.size ||
      comm.local_rank() != launch.local_rank)
    throw std::runtime_error(fmt::format("rank {} of {} does not match the environment's rank {} of {}",
                                         comm.rank(), comm.size(), launch.rank, launch.size));
}

void collectives(Communicator& comm) {
  check_ranks(comm);
  const auto stream = cpu_backend().make_stream();
  check_all_collectives(comm, Memory::of_the_device, *stream);
  check_overlapping_reductions(comm, Memory::of_the_device, *stream);
  check_equal_bits(comm, Memory::of_the_device, *stream);
  check_split(comm, Memory::of_the_device, *stream);
  check_agreement(comm);
}

// Reductions in shared memory, more of them under way than a rank can announce at once.
void shared_memory(Communicator& comm) {
  const auto stream = cpu_backend().make_stream();
  check_all_collectives(comm, Memory::of_the_communicator, *stream);
  check_overlapping_reductions(comm, Memory::of_the_communicator, *stream);
  check_equal_bits(comm, Memory::of_the_communicator, *stream);
  check_split(comm, Memory::of_the_communicator, *stream);
  constexpr int64_t kParts = 1000, kPart = 100;
  const Tensor ones = comm.allocate({kParts, kPart}, DType::f32, Device{});
  for (int64_t i = 0; i < ones.numel(); ++i) ones.data<float>()[i] = 1;
  std::vector<std::unique_ptr<PendingReduce>> pending;
  for (int64_t i = 0; i < kParts; ++i)
    pending.push_back(comm.start_all_reduce(ones.slice(0, i, i + 1), Reduce::sum, *stream));
  for (const auto& part : pending) part->wait();
  for (int64_t i = 0; i < ones.numel(); ++i)
    if (ones.data<float>()[i] != static_cast<float>(comm.size()))
      throw std::runtime_error(fmt::format("element {} is {}", i, ones.data<float>()[i]));
}

void disagreement(Communicator& comm) {
  const auto stream = cpu_backend().make_stream();
  const Tensor tensor = comm.allocate({100}, DType::f32, Device{});
  comm.all_reduce(tensor.slice(0, 0, 50 + comm.rank()), Reduce::sum, *stream);
}

void throws_on_rank_1(Communicator& comm) {
  comm.barrier();
  if (comm.rank() == 1) throw NumericError("planted");
  comm.barrier();
}

void sleeps_on_rank_1(Communicator& comm) {
  const auto stream = cpu_backend().make_stream();
  comm.barrier();
  if (comm.rank() == 1) sleep(120);
  comm.all_reduce(Tensor::zeros({1000}, DType::f32, *stream), Reduce::sum, *stream);
}

void sleeps_with_reductions_pending(Communicator& comm) {
  const auto stream = cpu_backend().make_stream();
  comm.barrier();
  if (comm.rank() == 1) sleep(120);
  const auto pending =
      comm.start_all_reduce(Tensor::zeros({1000}, DType::f32, *stream), Reduce::sum, *stream);
  pending->wait();
}

void sleeps_in_shared_memory(Communicator& comm) {
  const auto stream = cpu_backend().make_stream();
  const Tensor tensor = comm.allocate({1000}, DType::f32, Device{});
  if (comm.rank() == 1) sleep(120);
  comm.all_reduce(tensor, Reduce::sum, *stream);
}

// Longer than a collective may take, which counts for the ranks that wait.
void sleeps_in_long_work(Communicator& comm) {
  agree_on_long_work(comm, [&] {
    if (comm.rank() == 0) sleep(3 * static_cast<unsigned>(kTimeout_s));
  });
  comm.barrier();
}

void fails_in_long_work(Communicator& comm) {
  agree_on_long_work(comm, [&] {
    if (comm.rank() == 1) throw NumericError("planted");
  });
}

void stopped_in_long_work(Communicator& comm) {
  comm.barrier();
  if (comm.rank() == 1) raise(SIGSTOP);
  agree_on_long_work(comm, [] {});
}

void never_starts_mpi(Communicator&) { throw std::runtime_error("MPI started without a rank"); }

void killed_on_rank_1(Communicator& comm) {
  comm.barrier();
  if (comm.rank() == 1) raise(SIGKILL);
  comm.barrier();
}

// Leaves by the exception's own way out, past the communicator's end, as a program without a handler does.
void leaves_while_throwing(Communicator& comm) {
  comm.barrier();
  if (comm.rank() == 1) throw std::logic_error("leave");
  comm.barrier();
}

void mistakes(Communicator& comm) {
  const auto stream = cpu_backend().make_stream();
  int caught = 0;
  const auto expect_error = [&](const std::function<void()>& f) {
    try {
      f();
    } catch (const Error&) {
      ++caught;
    }
  };
  expect_error([&] { comm.all_reduce(Tensor::zeros({4}, DType::u8, *stream), Reduce::sum, *stream); });
  expect_error([&] { comm.broadcast(Tensor::zeros({4}, DType::u8, *stream), comm.size(), *stream); });
  if (caught != 2) throw std::runtime_error("a wrong argument was accepted");
  comm.barrier();  // nothing was started
}

const std::map<std::string, void (*)(Communicator&)> kCases = {
    {"collectives", collectives},
    {"collectives_in_small_messages", collectives},
    {"shared_memory", shared_memory},
    {"shared_memory_refused", shared_memory},
    {"disagreement", disagreement},
    {"sleeps_in_shared_memory", sleeps_in_shared_memory},
    {"throws_on_rank_1", throws_on_rank_1},
    {"sleeps_on_rank_1", sleeps_on_rank_1},
    {"sleeps_with_reductions_pending", sleeps_with_reductions_pending},
    {"sleeps_in_long_work", sleeps_in_long_work},
    {"fails_in_long_work", fails_in_long_work},
    {"sleeps_stopped_in_long_work", stopped_in_long_work},
    {"sleeps_before_mpi", never_starts_mpi},
    {"killed_on_rank_1", killed_on_rank_1},
    {"leaves_while_throwing", leaves_while_throwing},
    {"mistakes", mistakes},
};

std::unique_ptr<Communicator> make_communicator(const std::string& name) {
  if (name == "sleeps_before_mpi" && read_launch().rank == 1) sleep(120);
  if (name.starts_with("sleeps")) return Communicator::create(Device{}, kTimeout_s);
  MpiSettings settings;
  if (name == "collectives_in_small_messages") settings.largest_message = 1000;
  if (name == "shared_memory_refused") settings.shares_memory = false;
  return make_mpi_communicator(settings);
}

int run(const std::string& name) {
  const auto comm = make_communicator(name);
  try {
    kCases.at(name)(*comm);
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
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 3;
  }
}
