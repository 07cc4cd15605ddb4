// One rank of the gradient reducer's test under mpirun: grad_reducer_ranks shared_memory|messages.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <string>

#include "core/comm/mpi.h"
#include "grad_reducer_case.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  headway::MpiSettings settings;
  settings.shares_memory = std::string(argv[1]) == "shared_memory";
  const auto comm = headway::make_mpi_communicator(settings);
  try {
    headway::check_grad_reducer(*comm);
  } catch (const std::exception& error) {
    fmt::print(stderr, "rank {}: {}\n", comm->rank(), error.what());
    comm->abort(1);
  }
}
