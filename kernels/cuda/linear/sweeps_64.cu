// Sweeps of up to 64 channels.
#include "kernels/cuda/linear/launch_sweeps.cuh"

namespace headway::cuda::linear {
template void launch_sweeps<64>(std::span<const Sweep>, const float*, float*, const char*, Stream&);
}
