#include "kernels/cuda/attention/backward_hopper_kernel.cuh"

namespace headway::cuda::hopper {

template View<const float, 3> backward_of_width<128>(const Backward& args, Stream& stream);

}  // namespace headway::cuda::hopper
