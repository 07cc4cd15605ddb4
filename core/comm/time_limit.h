// A time limit for calls that cannot be given one.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace headway {

/// Calls `expire` on a thread of its own unless it is destroyed within the limit.
class TimeLimit {
 public:
  TimeLimit(double seconds, std::function<void()> expire)
      : thread_([this, seconds, expire = std::move(expire)] {
          std::unique_lock lock(mutex_);
          if (!ended_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return has_ended_; }))
            expire();
        }) {}
  ~TimeLimit() {
    {
      const std::scoped_lock lock(mutex_);
      has_ended_ = true;
    }
    ended_.notify_one();
    thread_.join();
  }
  TimeLimit(const TimeLimit&) = delete;
  TimeLimit& operator=(const TimeLimit&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool has_ended_ = false;
  std::thread thread_;  // last, as it uses the others
};

}  // namespace headway
