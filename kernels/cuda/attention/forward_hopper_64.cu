// The forward kernels for Hopper of heads of 64 channels, with the mask that most variants have.
#include "kernels/cuda/attention/forward_hopper.cuh"

namespace headway::cuda::hopper {

template void run_forward<64>(const ForwardCall<WindowVariant>&, Stream&);

}  // namespace headway::cuda::hopper
