// Takes the place of mpi.cpp where no MPI was found at build time.
#include "core/comm/mpi.h"
#include "core/error.h"

namespace headway {

std::unique_ptr<Communicator> make_mpi_communicator(const MpiSettings&) {
  throw CommError(
      "this program was started with several ranks but was built without MPI: install Open MPI "
      "(libopenmpi-dev), "
      "configure again and rebuild");
}

}  // namespace headway
