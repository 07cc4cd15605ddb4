// Waiting for other ranks without a blocking call: gives the core away at once, sleeps ever longer, and knows
// when it has waited too long.
#pragma once

#include <chrono>

namespace headway {

class Waiting {
 public:
  explicit Waiting(double limit_s) : limit_s_(limit_s), start_(std::chrono::steady_clock::now()) {}

  double elapsed_s() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  /// Lets others run for a moment; false once the limit has passed.
  bool pause() const;

 private:
  double limit_s_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace headway
