// The forward kernels for Hopper of heads of 128 channels, with the mask that most variants have.
#include "kernels/cuda/attention/forward_hopper.cuh"

namespace headway::cuda::hopper {

template void run_forward<128>(const ForwardCall<WindowVariant>&, Stream&);

}  // namespace headway::cuda::hopper
