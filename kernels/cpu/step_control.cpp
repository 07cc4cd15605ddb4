#include "kernels/step_control.h"

namespace headway {
namespace {

void step_control(const StepControl& args, Stream&) { control_step(args); }

void add_to_sum(const AddToSum& args, Stream&) {
  args.sum(0) += args.weight * static_cast<double>(args.value(0));
}

HEADWAY_KERNEL(cpu, step_control);
HEADWAY_KERNEL(cpu, add_to_sum);

}  // namespace
}  // namespace headway
