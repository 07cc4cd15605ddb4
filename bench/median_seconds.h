// Time of work on a stream, for the benchmarks.
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

#include "core/stream.h"

namespace headway {

/// Median of several rounds, each of calls that follow each other on the stream, of the seconds of a call. A
/// first round, which is not counted, touches the memory.
template <class Call>
double median_seconds(Stream& stream, int rounds, int calls, Call&& call) {
  std::vector<double> seconds;
  for (int round = -1; round < rounds; ++round) {
    stream.synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) call();
    stream.synchronize();
    const double whole = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (round >= 0) seconds.push_back(whole / calls);
  }
  std::ranges::sort(seconds);
  return seconds[seconds.size() / 2];
}

}  // namespace headway
