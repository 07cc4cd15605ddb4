// The table of rotary positions from angles.
#pragma once

#include <cmath>
#include <vector>

namespace headway {

/// [n] -> [n, 2]
template <class T>
std::vector<T> cosines_and_sines(const std::vector<T>& angles) {
  std::vector<T> table;
  for (const T angle : angles) {
    table.push_back(std::cos(angle));
    table.push_back(std::sin(angle));
  }
  return table;
}

}  // namespace headway
