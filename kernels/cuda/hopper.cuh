// Whether kernels that need Hopper's own instructions can run: those compiled for sm_90a.
#pragma once

#include <string>
#include <string_view>

#include "kernels/cuda/launch.cuh"

namespace headway::cuda {

/// Why they cannot on the stream's GPU, after "because"; empty where they can.
inline std::string hopper_refusal(const Stream& stream) {
  if (std::string_view(HEADWAY_CUDA_ARCHITECTURES).find("90a") == std::string_view::npos)
    return "this build has no code for sm_90a";
  const unsigned major = property(stream, cudaDevAttrComputeCapabilityMajor),
                 minor = property(stream, cudaDevAttrComputeCapabilityMinor);
  if (major == 9 && minor == 0) return "";
  return "the GPU has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
         ", not 9.0";
}

}  // namespace headway::cuda
