#include "core/comm/machine_file.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/comm/agreement.h"
#include "core/io/digest.h"

namespace headway {
namespace {

/// A number that two ranks have in common exactly if they can reach each other's /proc/<pid>.
int64_t machine_number() {
  std::string name;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> name;
  std::error_code absent;
  name += std::filesystem::read_symlink("/proc/self/ns/pid", absent).string();
  return static_cast<int64_t>(std::stoull(xxh3_64(name.data(), name.size()).substr(0, 15), nullptr, 16));
}

/// The values of all ranks, in the order of the ranks.
std::vector<int64_t> gather(Communicator& comm, int64_t value) {
  std::vector<int64_t> values(static_cast<size_t>(comm.size()));
  values[static_cast<size_t>(comm.rank())] = value;
  return all_reduce_values(comm, values, Reduce::sum);
}

}  // namespace

ScratchFile write_once_per_machine(Communicator& comm, const std::function<void(ScratchFile&)>& write) {
  const int64_t machine = machine_number();
  const std::vector<int64_t> machines = gather(comm, machine);
  const auto writer = static_cast<size_t>(std::ranges::find(machines, machine) - machines.begin());
  const bool is_writer = writer == static_cast<size_t>(comm.rank());
  ScratchFile file;
  agree_on_long_work(comm, [&] {
    if (is_writer) write(file);
  });
  const std::vector<int64_t> pids = gather(comm, getpid());
  const std::vector<int64_t> descriptors = gather(comm, file.descriptor());
  // When this returns, all have opened it, and the writer may close its own descriptor.
  agree(comm, [&] {
    if (!is_writer) file = ScratchFile::of_process(pids[writer], descriptors[writer]);
  });
  return file;
}

}  // namespace headway
