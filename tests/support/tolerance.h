// How far a kernel may be from the oracle: not a typed number but a multiple of the error that the same
// computation makes when it is written naively in the kernel's own precision (the yardstick).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

namespace headway::testing {

struct Error {
  double largest;    // absolute
  double rms;        // relative to the reference's root mean square
  double magnitude;  // largest absolute value of the reference
};

/// NaN anywhere makes both errors NaN, so a comparison `error <= limit` fails.
template <class T, class R>
Error error_of(std::span<const T> values, std::span<const R> reference) {
  double largest = 0, squares = 0, reference_squares = 0, magnitude = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double exact = static_cast<double>(reference[i]), value = static_cast<double>(values[i]);
    const double difference = value == exact ? 0 : std::abs(value - exact);  // equal infinities
    largest = largest >= difference ? largest : difference;
    squares += difference * difference;
    if (std::isinf(exact)) continue;
    reference_squares += exact * exact;
    magnitude = std::max(magnitude, std::abs(exact));
  }
  if (std::isnan(squares)) largest = squares;
  const double rms = squares == 0 ? 0 : std::sqrt(squares / std::max(reference_squares, 1e-300));
  return {largest, rms, magnitude};
}

/// Whether the error is at most twice the yardstick's plus a floor of a few units in the last place of T,
/// for sums that happen to be exact in the yardstick. terms: size of what is summed up, where terms may
/// cancel.
template <class T>
bool within(const Error& error, const Error& yardstick, double terms = 0) {
  const double floor = 16 * static_cast<double>(std::numeric_limits<T>::epsilon());
  const double magnitude = std::max(yardstick.magnitude, terms);
  const double cancellation = yardstick.magnitude > 0 ? magnitude / yardstick.magnitude : 1;
  return error.largest <= 2 * yardstick.largest + floor * magnitude &&
         error.rms <= 2 * yardstick.rms + floor * cancellation;
}

}  // namespace headway::testing
