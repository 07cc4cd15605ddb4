// Turns the CUDA runtime's status codes into our errors.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "core/error.h"

namespace headway {

/// MemoryError where the device is out of memory, DeviceError for any other failure of `what`.
inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const std::string message =
      std::string(what) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
  if (status == cudaErrorMemoryAllocation) throw MemoryError("out of memory: " + message);
  throw DeviceError(message);
}

}  // namespace headway
