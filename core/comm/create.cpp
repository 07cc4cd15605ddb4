// Chooses the communicator that fits how the process was started.
#include "core/comm/communicator.h"
#include "core/comm/launch.h"
#include "core/comm/local.h"
#include "core/comm/mpi.h"
#include "core/error.h"

namespace headway {

std::unique_ptr<Communicator> Communicator::create(Device device, double timeout_s) {
  const Launch launch = read_launch();
  const bool on_gpu = device.kind == Device::Kind::cuda;
  HEADWAY_CHECK(!on_gpu || launch.size == 1, DeviceError,
                "this build cannot reduce between GPUs, but " + std::to_string(launch.size) +
                    " ranks were started: start one, or use device = \"cpu\"");
  if (!launch.has_launcher || on_gpu) return make_local_communicator();
  MpiSettings settings;
  settings.timeout_s = timeout_s;
  settings.first_timeout_s = 3 * timeout_s;
  return make_mpi_communicator(settings);
}

}  // namespace headway
