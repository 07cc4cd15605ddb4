// What a person reads while a run goes on.
#pragma once

#include <cstdint>
#include <string>

namespace headway {

struct Progress {
  int64_t step = 0;  // completed
  int64_t last_step = 0;
  double loss = 0;
  double learning_rate = 0;
  double grad_norm = 0;
  double tokens_per_second = 0;
  double peak_memory_gib = 0;
  double seconds_left = 0;
};

/// "step 120/2000 | loss 3.4123 | lr 3.0e-04 | gnorm 0.81 | 48.1k tok/s | 12.3 GiB | eta 0:03:12"
std::string progress_line(const Progress&);
/// "0:03:12"
std::string format_duration(double seconds);
/// "48.1k", "1.2M", "930"
std::string format_count(double count);
/// "1,832,640", of a number that is not negative.
std::string with_thousands(int64_t number);

}  // namespace headway
