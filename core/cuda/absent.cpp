// Stands in for the CUDA backend in builds without the CUDA toolkit.
#include "core/backend.h"
#include "core/error.h"

namespace headway {

void begin_range(const char*) {}
void end_range() {}

int num_cuda_devices() { return 0; }

Backend& cuda_backend(int) {
  throw DeviceError(
      "this build has no CUDA support: install the CUDA toolkit and build again, or use run.device = \"cpu\" "
      "(or --device cpu)");
}

}  // namespace headway
