// Steps that stand out from those before them, by running medians over the last 100 steps:
//
//   loss spike:             loss > median + 0.1 nats
//   gradient-norm outlier:  norm > median + 6 or 9 times the median absolute deviation
//
// Nothing is judged before there are 20 steps to compare with. Steps whose numbers are not finite do not
// count.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

namespace headway {

class StepHealth {
 public:
  void add(double loss, double grad_norm);

  int64_t loss_spikes() const { return loss_spikes_; }
  int64_t outliers_6mad() const { return outliers_6mad_; }
  int64_t outliers_9mad() const { return outliers_9mad_; }

  /// All of it, to go on later as if nothing had happened.
  std::string to_text() const;
  static StepHealth from_text(const std::string&);

 private:
  std::deque<double> losses_, grad_norms_;  // of the last steps
  int64_t loss_spikes_ = 0, outliers_6mad_ = 0, outliers_9mad_ = 0;
};

}  // namespace headway
