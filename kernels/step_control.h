// The arithmetic of kernels/ops/step_control.h, for every backend.
#pragma once

#include <cmath>

#include "core/host_device.h"
#include "kernels/ops/step_control.h"

namespace headway {

HEADWAY_HD void control_step(const StepControl& args) {
  const double norm = std::sqrt(args.squares(0));
  const bool is_good = std::isfinite(args.loss(0)) && std::isfinite(norm);
  double& bad = args.state(StepControl::bad_in_a_row);
  if (bad < args.limit) bad = is_good ? 0 : bad + 1;
  args.state(StepControl::norm) = norm;
  const bool clips = args.max_norm > 0 && norm > args.max_norm;
  args.state(StepControl::grad_scale) = !is_good || bad >= args.limit ? kNoUpdate
                                        : clips                       ? args.max_norm / norm
                                                                      : 1;
}

}  // namespace headway
