// Sweeps of up to 256 channels.
#include "kernels/cuda/linear/launch_sweeps.cuh"

namespace headway::cuda::linear {
template void launch_sweeps<256>(std::span<const Sweep>, const float*, float*, const char*, Stream&);
}
