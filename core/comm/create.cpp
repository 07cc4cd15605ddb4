// Chooses the communicator that fits how the process was started.
#include "core/comm/communicator.h"
#include "core/comm/launch.h"
#include "core/comm/local.h"
#include "core/comm/mpi.h"
#include "core/comm/nccl.h"

namespace headway {

std::unique_ptr<Communicator> Communicator::create(Device device, double timeout_s) {
  const Launch launch = read_launch();
  const bool on_gpu = device.kind == Device::Kind::cuda;
  if (!launch.has_launcher || (on_gpu && launch.size == 1)) return make_local_communicator();
  MpiSettings settings;
  settings.timeout_s = timeout_s;
  settings.first_timeout_s = 3 * timeout_s;
  auto host = make_mpi_communicator(settings);
  return on_gpu ? make_nccl_communicator(std::move(host), device, timeout_s) : std::move(host);
}

}  // namespace headway
