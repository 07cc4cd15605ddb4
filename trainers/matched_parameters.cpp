#include "trainers/matched_parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "layers/model.h"

namespace headway {
namespace {

constexpr int64_t kStep = 8;

int64_t num_parameters(ModelConfig model, int64_t mlp_dim) {
  model.mlp_dim = mlp_dim;
  return Model(model).num_parameters();
}

/// Parameters grow in proportion to the width, beside those outside the feed-forward layers.
int64_t nearest_mlp_dim(const ModelConfig& model, int64_t wanted) {
  const int64_t least = num_parameters(model, kStep);
  const auto per_step = static_cast<double>(num_parameters(model, 2 * kStep) - least);
  const auto steps = static_cast<int64_t>(std::round(static_cast<double>(wanted - least) / per_step));
  return kStep * std::max<int64_t>(1 + steps, 1);
}

}  // namespace

std::string matched_parameters(const Recipe& resolved, int64_t wanted, const std::string& other) {
  const auto line = [&](int64_t mlp_dim, const std::string& note) {
    const int64_t count = num_parameters(resolved.model, mlp_dim);
    const double percent = 100 * (static_cast<double>(count) / static_cast<double>(wanted) - 1);
    return fmt::format("  {:<26}{:>14}  {:+.2f} %, {}\n", fmt::format("model.mlp_dim = {}", mlp_dim), count,
                       percent, note);
  };
  const int64_t nearest = nearest_mlp_dim(resolved.model, wanted);
  return fmt::format("Parameters beside the {} of {}\n", wanted, other) +
         line(resolved.model.mlp_dim, "as it is") +
         line(nearest, fmt::format("the nearest multiple of {}", kStep));
}

}  // namespace headway
