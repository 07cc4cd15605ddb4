#include "trainers/report/statistics.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace headway {

Sample describe(std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  Sample sample{.count = values.size(), .mean = NAN, .deviation = NAN};
  if (values.empty()) return sample;
  sample.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  if (values.size() < 2) return sample;
  double squares = 0;
  for (const double x : values) squares += (x - sample.mean) * (x - sample.mean);
  sample.deviation = std::sqrt(squares / (n - 1));
  return sample;
}

double student_t_tail(double t, int degrees) {
  const double angle = std::atan(std::abs(t) / std::sqrt(static_cast<double>(degrees)));
  const double cosine = std::cos(angle), sine = std::sin(angle);
  const bool is_odd = degrees % 2 == 1;
  // Terms cos^k a_k with a_k = a_{k-2} (k - 1) / k, from k = 1 for odd degrees and 0 for even ones.
  double sum = 0, term = is_odd ? cosine : 1;
  for (int k = is_odd ? 1 : 0; k <= degrees - 2; k += 2) {
    sum += term;
    term *= cosine * cosine * (k + 1) / (k + 2);
  }
  const double inside = is_odd ? 2 / std::numbers::pi * (angle + sine * sum) : sine * sum;
  return std::clamp(1 - inside, 0.0, 1.0);
}

double student_t_quantile(double tail, int degrees) {
  double low = 0, high = 1;
  while (student_t_tail(high, degrees) > tail) high *= 2;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    (student_t_tail(middle, degrees) > tail ? low : high) = middle;
  }
  return high;
}

PairedDifference paired_difference(std::span<const double> differences) {
  const Sample sample = describe(differences);
  if (sample.count < 2) return {.difference = sample, .low = NAN, .high = NAN, .p = NAN};
  const int degrees = static_cast<int>(sample.count) - 1;
  const double error = sample.deviation / std::sqrt(static_cast<double>(sample.count));
  const double reach = student_t_quantile(0.05, degrees) * error;
  // Differences that are all equal leave no doubt, and none at all if they are zero.
  const double p = error > 0 ? student_t_tail(sample.mean / error, degrees) : sample.mean == 0 ? 1 : 0;
  return {.difference = sample, .low = sample.mean - reach, .high = sample.mean + reach, .p = p};
}

std::vector<double> holm(std::span<const double> p_values) {
  std::vector<size_t> order;
  for (size_t i = 0; i < p_values.size(); ++i)
    if (!std::isnan(p_values[i])) order.push_back(i);
  std::ranges::sort(order, {}, [&](size_t i) { return p_values[i]; });
  std::vector<double> corrected(p_values.size(), NAN);
  double largest = 0;
  for (size_t rank = 0; rank < order.size(); ++rank) {
    const auto tests_left = static_cast<double>(order.size() - rank);
    largest = std::max(largest, std::min(1.0, tests_left * p_values[order[rank]]));
    corrected[order[rank]] = largest;
  }
  return corrected;
}

}  // namespace headway
