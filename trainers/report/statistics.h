// Means, and differences of pairs with Student's t: mean +- t_{n-1} s / sqrt(n), s the sample deviation of
// the differences. A repetition by seed shares its seed's noise with its partner, so differences of pairs are
// sharper than a difference of means.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace headway {

struct Sample {
  size_t count = 0;
  double mean = 0;       // NaN of nothing
  double deviation = 0;  // of the sample, n - 1 in the denominator; NaN of fewer than two
};
Sample describe(std::span<const double>);

/// Probability that |t| is at least this large under Student's distribution with these degrees of freedom (>=
/// 1): the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4.
double student_t_tail(double t, int degrees);
/// The t that is exceeded in both directions together with this probability (0 < tail < 1).
double student_t_quantile(double tail, int degrees);

/// How far a mean of paired differences is from zero.
struct PairedDifference {
  Sample difference;
  double low = 0, high = 0;  // 95 % confidence interval; NaN of fewer than two pairs
  double p = 0;              // two-sided; NaN of fewer than two pairs
};
PairedDifference paired_difference(std::span<const double> differences);

/// Holm's correction of the p values of one family of tests (Scandinavian Journal of Statistics 6, 1979). NaN
/// belongs to no test and stays.
std::vector<double> holm(std::span<const double> p_values);

}  // namespace headway
