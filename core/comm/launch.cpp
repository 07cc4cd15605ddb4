#include "core/comm/launch.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <string_view>

namespace headway {
namespace {

// The number at the start of text, -1 where there is none: OMP_NUM_THREADS may be a list, "4,2".
int leading_number(std::string_view text) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && value >= 0 ? value : -1;
}

// The first of these variables that holds a number.
int first_number(std::initializer_list<const char*> names, int otherwise) {
  for (const char* name : names)
    if (const char* text = std::getenv(name))
      if (const int value = leading_number(text); value >= 0) return value;
  return otherwise;
}

int cores_in_mask() {
  cpu_set_t* const set = CPU_ALLOC(CPU_SETSIZE);
  if (!set) return 1;
  const size_t bytes = CPU_ALLOC_SIZE(CPU_SETSIZE);
  const int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 1;
  CPU_FREE(set);
  return std::max(count, 1);
}

// A container may see fewer cores than the machine has: "0-3,8" is five cores.
int cores_in_container() {
  std::ifstream file("/sys/fs/cgroup/cpuset.cpus.effective");
  int count = 0;
  for (std::string range; std::getline(file, range, ',');) {
    const size_t dash = range.find('-');
    const int lo = leading_number(range);
    const int hi = dash == std::string::npos ? lo : leading_number(std::string_view(range).substr(dash + 1));
    if (lo >= 0 && hi >= lo) count += hi - lo + 1;
  }
  return count;
}

const char* plural(int count) { return count == 1 ? "" : "s"; }

}  // namespace

Launch read_launch() {
  Launch launch;
  // Not SLURM_NTASKS: inside a batch script it is set without a launcher around this process.
  launch.size = first_number({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}, 0);
  launch.has_launcher = launch.size > 0 || std::getenv("PMIX_RANK") != nullptr;
  if (!launch.has_launcher) return Launch{};
  launch.rank = first_number({"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"}, 0);
  if (launch.size == 0) launch.size = first_number({"SLURM_NTASKS"}, 1);
  launch.local_rank = first_number({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}, 0);
  launch.local_size =
      std::max(first_number({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"}, launch.size), 1);
  return launch;
}

Cores read_cores() {
  Cores cores;
  cores.allowed = cores_in_mask();
  const int in_container = cores_in_container();
  const int online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  cores.available = std::max(in_container > 0 ? std::min(in_container, online) : online, cores.allowed);
  cores.omp_num_threads = first_number({"OMP_NUM_THREADS"}, 0);
  return cores;
}

ThreadPlan plan_threads(const Launch& launch, const Cores& cores) {
  ThreadPlan plan;
  const int ranks = launch.local_size;
  // An unbound rank shares its mask with the others; a rank bound to some cores has them to itself as far as
  // there are enough.
  const int share = std::max(1, std::min(cores.allowed, cores.available / ranks));
  plan.num_threads = cores.omp_num_threads > 0 ? cores.omp_num_threads : share;
  const int threads = plan.num_threads;
  if (threads > cores.allowed) {
    plan.warning = fmt::format(
        "{} threads per rank share {} core{}: the rank is bound to fewer cores than OMP_NUM_THREADS asks "
        "for; "
        "start with mpirun --bind-to none, or set OMP_NUM_THREADS={}",
        threads, cores.allowed, plural(cores.allowed), share);
  } else if (ranks * threads > cores.available) {
    plan.warning = fmt::format(
        "{} rank{} of {} thread{} share {} core{}: the machine is oversubscribed and every step waits for "
        "the "
        "slowest rank; start fewer ranks or lower OMP_NUM_THREADS",
        ranks, plural(ranks), threads, plural(threads), cores.available, plural(cores.available));
  } else if (cores.omp_num_threads == 0 && cores.allowed < cores.available &&
             ranks * threads < cores.available) {
    plan.warning = fmt::format(
        "{} rank{} bound to {} of {} cores: mpirun binds each rank to one core by default; start with mpirun "
        "--bind-to none to use them all",
        ranks, ranks == 1 ? " is" : "s are each", cores.allowed, cores.available);
  }
  return plan;
}

}  // namespace headway
