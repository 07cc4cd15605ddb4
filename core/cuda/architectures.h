// Which GPUs the kernels of a build run on.
#pragma once

#include <string_view>

namespace headway {

/// architectures: as CMake has them, "90a" or "80;90a". Code for one with a letter runs on that compute
/// capability alone, other code also on later ones of the same major number.
inline bool runs_on(std::string_view architectures, int major, int minor) {
  while (!architectures.empty()) {
    const std::string_view one = architectures.substr(0, architectures.find(';'));
    architectures.remove_prefix(one.size() < architectures.size() ? one.size() + 1 : one.size());
    size_t digits = 0;
    int number = 0;
    for (; digits < one.size() && one[digits] >= '0' && one[digits] <= '9'; ++digits)
      number = 10 * number + (one[digits] - '0');
    const bool is_exact = digits < one.size() && one[digits] == 'a';
    if (number / 10 == major && (is_exact ? number % 10 == minor : number % 10 <= minor)) return true;
  }
  return false;
}

}  // namespace headway
