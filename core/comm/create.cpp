// Chooses the communicator that fits how the process was started.
#include "core/comm/communicator.h"
#include "core/comm/launch.h"
#include "core/comm/local.h"
#include "core/comm/mpi.h"

namespace headway {

std::unique_ptr<Communicator> Communicator::create(Device, double timeout_s) {
  if (!read_launch().has_launcher) return make_local_communicator();
  MpiSettings settings;
  settings.timeout_s = timeout_s;
  settings.first_timeout_s = 3 * timeout_s;
  return make_mpi_communicator(settings);
}

}  // namespace headway
