// What decides, where the gradients are, whether an update happens, so that no step waits for the host.
//
//   is_good = loss and norm are finite           norm = sqrt(squares)
//   bad_in_a_row = is_good ? 0 : bad_in_a_row + 1, which stays once it has reached `limit`
//   grad_scale = is_good and bad_in_a_row < limit ? min(1, max_norm / norm) : no update
#pragma once

#include "core/dtype.h"
#include "core/view.h"
#include "kernels/op.h"

namespace headway {

/// What an update reads of a StepControl's state.
inline constexpr double kNoUpdate = -1;

struct StepControl {
  static constexpr const char* name = "step_control";
  enum State : int { grad_scale, norm, bad_in_a_row, state_size };

  View<const double, 1> loss;     // (1)
  View<const double, 1> squares;  // (1) of the gradient
  View<double, 1> state;          // (state_size)
  double max_norm = 0;            // 0: gradients are not clipped
  double limit = 1;               // of bad steps in a row: no update from there on

  void check() const {
    HEADWAY_CHECK(loss.size[0] == 1 && squares.size[0] == 1 && state.size[0] == state_size, ShapeError,
                  "step_control: one loss, one sum of squares and a state of three numbers are expected");
  }
};

/// sum[0] += weight * value[0]
struct AddToSum {
  static constexpr const char* name = "add_to_sum";
  View<const float, 1> value;
  View<double, 1> sum;
  double weight = 1;
  void check() const {
    HEADWAY_CHECK(value.size[0] == 1 && sum.size[0] == 1, ShapeError, "add_to_sum: one value, one sum");
  }
};

}  // namespace headway
