// Sweeps of up to 128 channels.
#include "kernels/cuda/linear/launch_sweeps.cuh"

namespace headway::cuda::linear {
template void launch_sweeps<128>(std::span<const Sweep>, const float*, float*, const char*, Stream&);
}
