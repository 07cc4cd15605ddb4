// A maximum that a NaN does not pass by: for the largest of many errors.
#pragma once

namespace headway {

/// The larger number, or NaN where either is one; std::max and std::fmax lose it.
template <class T>
constexpr T max_or_nan(T a, T b) {
  return a >= b || a != a ? a : b;
}

}  // namespace headway
