#include "autograd/gradcheck.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/engine.h"

namespace headway {
namespace {

constexpr double kExact = 1e-9;  // errors below are not looked into

/// The function with fixed random numbers, as a number.
class Folded {
 public:
  Folded(Context& ctx, const CheckedFunction& function)
      : ctx_(ctx), function_(function), rng_position_(ctx.rng.position()) {}

  std::vector<Variable> outputs(bool recording) const {
    Context ctx = ctx_;
    ctx.recording = recording;
    ctx.rng.rewind(rng_position_);
    return function_(ctx);
  }
  Tensor weights(const Variable& output, size_t index) const {
    const Tensor weights = Tensor::empty(output.shape(), DType::f64, ctx_.device());
    const RandomKey key{0x9e3779b9u, 0, static_cast<uint32_t>(index), 0};
    for (int64_t i = 0; i < weights.numel(); ++i)
      weights.data<double>()[i] = normal(key, static_cast<uint64_t>(i));
    return weights;
  }
  double value(const std::vector<Variable>& outputs) const {
    double sum = 0;
    for (size_t k = 0; k < outputs.size(); ++k) {
      const std::vector<double> y = outputs[k].value().to_vector<double>(ctx_.stream);
      const Tensor r = weights(outputs[k], k);
      for (size_t i = 0; i < y.size(); ++i) sum += y[i] * r.data<double>()[i];
    }
    return sum;
  }
  double value() const { return value(outputs(false)); }
  /// One backward pass; returns the value.
  double differentiate() const {
    const std::vector<Variable> roots = outputs(true);
    std::vector<Tensor> seeds;
    for (size_t k = 0; k < roots.size(); ++k) seeds.push_back(weights(roots[k], k));
    const double sum = value(roots);
    Context ctx = ctx_;
    ctx.recording = true;
    backward(ctx, roots, seeds, MicroStep::more_follow);
    return sum;
  }

 private:
  Context& ctx_;
  const CheckedFunction& function_;
  uint32_t rng_position_;
};

double five_point_slope(const Folded& function, double& x, double h) {
  const double x0 = x;
  const auto at = [&](double offset) {
    x = x0 + offset;
    return function.value();
  };
  const double slope = (at(-2 * h) - 8 * at(-h) + 8 * at(h) - at(2 * h)) / (12 * h);
  x = x0;
  return slope;
}

/// The large step has less rounding error, the small one less truncation error where the function bends
/// sharply: the quotient is the nearer one to the computed gradient. A wrong gradient is near neither.
struct Quotient {
  double value;
  double disagreement;
};

Quotient difference_quotient(const Folded& function, double& x, double computed, double h) {
  const double coarse = five_point_slope(function, x, h);
  if (std::fabs(coarse - computed) <= 1e-11) return {coarse, 0};
  const double fine = five_point_slope(function, x, h / 10);
  return {std::fabs(fine - computed) < std::fabs(coarse - computed) ? fine : coarse,
          std::fabs(fine - coarse)};
}

/// Gradient memory full of NaN that the first contribution must overwrite.
void poison(const Variable& leaf, Stream& stream) {
  GradBuffer& buffer = *leaf.edge().leaf;
  const std::vector<double> nan(static_cast<size_t>(leaf.value().numel()),
                                std::numeric_limits<double>::quiet_NaN());
  buffer.grad = Tensor::from<double>(nan, leaf.shape(), stream);
  buffer.written = false;
}

double largest_magnitude(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::fabs(value));
  return largest;
}

/// Keeps the larger error; NaN counts as infinite.
void record(GradCheck& result, double error, const std::string& what) {
  if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
  if (error < result.error || (error == 0 && !result.worst.empty())) return;
  result = {error, what};
}

}  // namespace

GradCheck gradcheck(Context& ctx, const CheckedFunction& function, std::span<const Variable> leaves,
                    const GradCheckOptions& options) {
  const Folded folded(ctx, function);
  for (const Variable& leaf : leaves) poison(leaf, ctx.stream);
  const double recorded = folded.differentiate();

  GradCheck result;
  const double plain = folded.value();
  if (!(std::fabs(recorded - plain) <= options.repeat_tolerance * std::max(1.0, std::fabs(plain))))
    record(result, std::numeric_limits<double>::infinity(),
           fmt::format("value {} when recording, {} otherwise", recorded, plain));

  std::vector<std::vector<double>> gradients;
  for (size_t l = 0; l < leaves.size(); ++l) {
    if (!leaves[l].grad()) {
      record(result, std::numeric_limits<double>::infinity(), fmt::format("leaf {} got no gradient", l));
      return result;
    }
    gradients.push_back(leaves[l].grad().to_vector<double>(ctx.stream));
  }
  folded.differentiate();

  int64_t num_checked = 0, num_unclear = 0;
  for (size_t l = 0; l < leaves.size(); ++l) {
    const std::vector<double>& gradient = gradients[l];
    const double scale = std::max(largest_magnitude(gradient), 1e-3);
    const std::vector<double> twice = leaves[l].grad().to_vector<double>(ctx.stream);
    for (size_t i = 0; i < gradient.size(); ++i)
      if (!(std::fabs(twice[i] - 2 * gradient[i]) <= options.repeat_tolerance * scale))
        record(result, std::numeric_limits<double>::infinity(),
               fmt::format("leaf {} [{}]: {} after one pass, {} after two", l, i, gradient[i], twice[i]));

    double* const x = leaves[l].value().data<double>();
    const auto count = static_cast<int64_t>(gradient.size());
    const int64_t checked = std::min(count, options.elements_per_leaf);
    for (int64_t c = 0; c < checked; ++c) {
      const int64_t i = count * c / checked;
      const double computed = gradient[static_cast<size_t>(i)];
      const auto [slope, disagreement] = difference_quotient(folded, x[i], computed, options.step);
      const double error = std::fabs(computed - slope);
      ++num_checked;
      // Truncation errors differ by 10^4 between the steps: an error below the disagreement is the
      // quotient's.
      if (error > kExact * scale && error <= 10 * disagreement)
        ++num_unclear;
      else
        record(result, error / scale,
               fmt::format("leaf {} [{}]: gradient {}, difference quotient {}", l, i, computed, slope));
    }
  }
  if (4 * num_unclear > num_checked)
    record(result, std::numeric_limits<double>::infinity(),
           fmt::format("quotients of two steps disagree at {} of {} elements", num_unclear, num_checked));
  return result;
}

}  // namespace headway
