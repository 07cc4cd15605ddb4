#include "layers/module.h"

#include <cmath>
#include <set>

#include "autograd/ops/round.h"
#include "core/error.h"
#include "core/tensor.h"

namespace headway {
namespace {

// Initialisation uses a step number of its own, so that it never meets the random numbers of a training step.
constexpr uint32_t kInitStep = 0xffffffffu;

template <class T>
std::vector<T> initial_values(const Parameter& parameter, const RandomKey& key) {
  std::vector<T> values(static_cast<size_t>(parameter.shape.numel()), static_cast<T>(parameter.init.value));
  if (parameter.init.kind == Init::Kind::normal) {
#pragma omp parallel for
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<T>(parameter.init.value * normal(key, i));
  }
  if (parameter.init.kind == Init::Kind::uniform) {
#pragma omp parallel for
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<T>(parameter.init.value * (2.0 * static_cast<double>(uniform(key, i)) - 1.0));
  }
  if (parameter.init.kind == Init::Kind::geometric)
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<T>(std::pow(parameter.init.value, static_cast<double>(i)));
  if (parameter.init.kind == Init::Kind::identity) {
    const auto rows = static_cast<size_t>(parameter.shape[-2]),
               columns = static_cast<size_t>(parameter.shape[-1]);
    for (size_t i = 0; i < values.size(); ++i)
      if (i / columns % rows != i % columns) values[i] = 0;
  }
  return values;
}

}  // namespace

std::string join_path(std::string_view prefix, std::string_view name) {
  if (prefix.empty() || name.empty()) return std::string(prefix) + std::string(name);
  return std::string(prefix) + "/" + std::string(name);
}

void Module::visit(std::string_view prefix,
                   const std::function<void(const std::string&, Parameter&)>& function) {
  for (auto& [name, parameter] : parameters_) function(join_path(prefix, name), parameter);
  for (auto& [name, child] : children_) child->visit(join_path(prefix, name), function);
}

void Module::visit_modules(std::string_view prefix,
                           const std::function<void(const std::string&, Module&)>& function) {
  function(std::string(prefix), *this);
  for (auto& [name, child] : children_) child->visit_modules(join_path(prefix, name), function);
}

void Module::materialize(DType dtype, uint64_t seed, Stream& stream) {
  visit("", [&](const std::string& path, Parameter& parameter) {
    const RandomKey key{seed, kInitStep, stream_of(path.c_str()), 0};
    dispatch<double, float>(accumulator_of(dtype), path.c_str(), [&]<class T>() {
      parameter.value = Tensor::from<T>(initial_values<T>(parameter, key), parameter.shape, stream);
    });
    parameter.compute = parameter.value;
    if (dtype == DType::bf16 && parameter.shape.rank() > 1 && !parameter.keeps_precision)
      parameter.compute = Tensor::empty(parameter.shape, DType::bf16, stream.device());
    parameter.gradient->dtype = accumulator_of(dtype);
  });
  visit_modules(
      "", [&](const std::string&, Module& module) { module.make_buffers(accumulator_of(dtype), stream); });
  round_weights(stream);
}

void Module::round_weights(Stream& stream) {
  visit("", [&](const std::string&, Parameter& parameter) {
    if (parameter.is_rounded()) round_to(parameter.compute, parameter.value, stream);
  });
}

void Module::train_only(const std::vector<std::string>& names) {
  std::set<std::string> unused(names.begin(), names.end());
  visit("", [&](const std::string& path, Parameter& parameter) {
    parameter.frozen = true;
    for (const std::string& name : names) {
      if (path.find(name) == std::string::npos) continue;
      parameter.frozen = false;
      unused.erase(name);
    }
  });
  HEADWAY_CHECK(unused.empty(), ConfigError,
                "train.only names \"" + *unused.begin() + "\", but no parameter's path contains that");
}

std::vector<std::shared_ptr<GradBuffer>> Module::gradient_buffers() {
  std::vector<std::shared_ptr<GradBuffer>> buffers;
  visit("", [&](const std::string&, Parameter& parameter) {
    if (!parameter.frozen) buffers.push_back(parameter.gradient);
  });
  return buffers;
}

Parameter& Module::add_parameter(std::string name, const Shape& shape, Init init, bool decay) {
  auto& entry = parameters_.emplace_back(std::move(name), Parameter{});
  entry.second.shape = shape;
  entry.second.init = init;
  entry.second.decay = decay;
  return entry.second;
}

void Module::add_child(std::string name, Module& child) { children_.emplace_back(std::move(name), &child); }

}  // namespace headway
