#include "kernels/step_control.h"

#include "kernels/cuda/launch.cuh"

namespace headway {
namespace {
using namespace cuda;

__global__ void step_control_kernel(StepControl args) { control_step(args); }
__global__ void add_to_sum_kernel(AddToSum args) {
  args.sum(0) += args.weight * static_cast<double>(args.value(0));
}

void step_control(const StepControl& args, Stream& stream) {
  step_control_kernel<<<1, 1, 0, stream.native()>>>(args);
  check_launch(args.name);
}

void add_to_sum(const AddToSum& args, Stream& stream) {
  add_to_sum_kernel<<<1, 1, 0, stream.native()>>>(args);
  check_launch(args.name);
}

HEADWAY_KERNEL(cuda, step_control);
HEADWAY_KERNEL(cuda, add_to_sum);

}  // namespace
}  // namespace headway
