// Takes the place of nccl.cpp where no NCCL was found at build time.
#include "core/comm/nccl.h"
#include "core/error.h"

namespace headway {

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator>, Device, double) {
  throw DeviceError(
      "several ranks on GPUs need NCCL, and this program was built without it: install libnccl-dev, "
      "configure again and rebuild; or start one rank, or use run.device = \"cpu\"");
}

}  // namespace headway
