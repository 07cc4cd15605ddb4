#include "core/comm/waiting.h"

#include <sched.h>

#include <algorithm>
#include <thread>

namespace headway {

bool Waiting::pause() const {
  // Ranks of a step are rarely further apart than this; a sleep would cost more than it frees.
  constexpr double kYieldFor_s = 0.02;
  // A sleep adds at most this share to the time waited.
  constexpr double kSleepShare = 0.01;
  constexpr double kLongestSleep_s = 0.002;
  const double elapsed = elapsed_s();
  if (elapsed < kYieldFor_s)
    sched_yield();
  else
    std::this_thread::sleep_for(
        std::chrono::duration<double>(std::min(elapsed * kSleepShare, kLongestSleep_s)));
  return elapsed < limit_s_;
}

}  // namespace headway
