// How fast ranks exchange what training exchanges: GB/s of the bus, the bytes that must cross each rank's
// link, which is what NCCL's own tests print.
//
//   mpirun -np 2 build/comm_bench [--device cuda] [--largest-mib 1024]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "core/backend.h"
#include "core/error.h"
#include "trainers/commands/command_line.h"
#include "trainers/run_on_ranks.h"

namespace headway {
namespace {

/// Median of the slowest rank's seconds.
double seconds_of(const std::function<void()>& exchange, Communicator& comm, Stream& stream) {
  constexpr int kWarmup = 2, kRuns = 7;
  std::vector<double> seconds;
  for (int i = 0; i < kWarmup + kRuns; ++i) {
    stream.synchronize();
    comm.barrier();
    const auto start = std::chrono::steady_clock::now();
    exchange();
    stream.synchronize();
    comm.barrier();
    if (i >= kWarmup)
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::ranges::sort(seconds);
  return seconds[seconds.size() / 2];
}

ExitCode measure(int64_t largest_mib, Communicator& comm, Stream& stream) {
  HEADWAY_CHECK(comm.size() > 1, ConfigError, "one rank exchanges nothing: start several, as mpirun -np 2");
  if (comm.rank() == 0)
    fmt::print("{}, {} ranks, fp32\n{:>9} {:>22} {:>22} {:>22}\n", backend(stream.device()).description(),
               comm.size(), "MiB", "all_reduce GB/s", "reduce_scatter GB/s", "all_gather GB/s");
  for (int64_t mib = 1; mib <= largest_mib; mib *= 4) {
    const Tensor tensor = comm.allocate({(mib << 20) / 4}, DType::f32, stream.device());
    tensor.fill_zero(stream);
    const double share = static_cast<double>(comm.size() - 1) / comm.size();
    const double bytes = share * static_cast<double>(tensor.bytes());
    const double all_reduce = seconds_of([&] { comm.all_reduce(tensor, Reduce::sum, stream); }, comm, stream);
    const double scatter =
        seconds_of([&] { comm.start_reduce_scatter(tensor, Reduce::sum, stream)->wait(); }, comm, stream);
    const double gather = seconds_of([&] { comm.all_gather(tensor, stream); }, comm, stream);
    if (comm.rank() == 0)
      fmt::print("{:>9} {:>22.2f} {:>22.2f} {:>22.2f}\n", mib, 2 * bytes / all_reduce / 1e9,
                 bytes / scatter / 1e9, bytes / gather / 1e9);
  }
  return ExitCode::ok;
}

}  // namespace
}  // namespace headway

int main(int argc, char** argv) {
  headway::CommandLine command_line("comm_bench", "Bandwidth of the collectives that training uses");
  std::string device = "auto";
  int64_t largest_mib = 1024;
  command_line.options().add("--device", device, "auto, cpu or cuda");
  command_line.options()
      .add("--largest-mib", largest_mib, "size of the largest tensor, 1024 if not given")
      .integer_from(1, 65536);
  try {
    if (!command_line.read(argc, argv)) return 0;
    constexpr double kTimeout = 100;
    return static_cast<int>(
        headway::run_on_ranks(device, kTimeout, [&](headway::Communicator& comm, headway::Stream& stream) {
          return headway::measure(largest_mib, comm, stream);
        }));
  } catch (const headway::Error& error) {
    fmt::print(stderr, "comm_bench: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
