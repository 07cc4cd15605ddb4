#include "trainers/step_health.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <vector>

namespace headway {
namespace {

constexpr size_t kWindow = 100, kFewest = 20;
constexpr double kSpike = 0.1;  // nats

/// The upper one of two middle values.
double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::ranges::nth_element(values, middle);
  return *middle;
}

double deviation(const std::vector<double>& values, double center) {
  std::vector<double> distances;
  for (const double value : values) distances.push_back(std::abs(value - center));
  return median(std::move(distances));
}

void push(std::deque<double>& window, double value) {
  window.push_back(value);
  if (window.size() > kWindow) window.pop_front();
}

}  // namespace

void StepHealth::add(double loss, double grad_norm) {
  if (!std::isfinite(loss) || !std::isfinite(grad_norm)) return;
  if (losses_.size() >= kFewest) {
    loss_spikes_ += loss > median({losses_.begin(), losses_.end()}) + kSpike;
    const std::vector<double> norms(grad_norms_.begin(), grad_norms_.end());
    const double center = median(norms), spread = deviation(norms, center);
    outliers_6mad_ += grad_norm > center + 6 * spread;
    outliers_9mad_ += grad_norm > center + 9 * spread;
  }
  push(losses_, loss);
  push(grad_norms_, grad_norm);
}

std::string StepHealth::to_text() const {
  std::string text = fmt::format("{} {} {}", loss_spikes_, outliers_6mad_, outliers_9mad_);
  for (size_t i = 0; i < losses_.size(); ++i) text += fmt::format(" {} {}", losses_[i], grad_norms_[i]);
  return text;
}

StepHealth StepHealth::from_text(const std::string& text) {
  StepHealth health;
  std::istringstream numbers(text);
  numbers >> health.loss_spikes_ >> health.outliers_6mad_ >> health.outliers_9mad_;
  for (double loss, grad_norm; numbers >> loss >> grad_norm;) {
    push(health.losses_, loss);
    push(health.grad_norms_, grad_norm);
  }
  return health;
}

}  // namespace headway
