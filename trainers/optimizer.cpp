#include "trainers/optimizer.h"

#include <cmath>

#include "autograd/ops/flat.h"
#include "kernels/ops/adamw.h"

namespace headway {

AdamW::AdamW(Module& model, const AdamWConfig& config, Stream& stream) : config_(config) {
  model.visit("", [&](const std::string& path, Parameter& parameter) {
    if (parameter.frozen) return;
    const auto zeros = [&] { return Tensor::zeros(parameter.shape, parameter.value.dtype(), stream); };
    slots_.push_back({path, &parameter, zeros(), zeros()});
  });
}

void AdamW::step(int64_t step, double learning_rate, double grad_scale, Stream& stream) {
  const auto t = static_cast<double>(step);
  if (slots_.empty()) return;
  dispatch<double, float>(slots_.front().parameter->value.dtype(), "adamw", [&]<class T>() {
    std::vector<AdamWParameter<T>> parameters;
    for (const auto& [path, parameter, m, v] : slots_)
      parameters.push_back(
          {.p = flat<T>(parameter->value, "p"),
           .m = flat<T>(m, "m"),
           .v = flat<T>(v, "v"),
           .grad = flat<const T>(parameter->gradient->grad, "grad"),
           .rounded = parameter->is_rounded() ? flat<bf16>(parameter->compute, "compute") : View<bf16, 1>(),
           .decay = parameter->decay ? config_.weight_decay : 0});
    launch(AdamWUpdate<T>{.parameters = parameters,
                          .grad_scale = grad_scale,
                          .lr = learning_rate,
                          .beta1 = config_.beta1,
                          .beta2 = config_.beta2,
                          .eps = config_.eps,
                          .correction1 = 1 - std::pow(config_.beta1, t),
                          .correction2 = 1 - std::pow(config_.beta2, t)},
           stream);
  });
}

void AdamW::save(ArchiveWriter& archive, std::string_view prefix) const {
  for (const Slot& slot : slots_) {
    archive.tensor(join_path(join_path(prefix, "m"), slot.path), slot.m);
    archive.tensor(join_path(join_path(prefix, "v"), slot.path), slot.v);
  }
}

void AdamW::load(ArchiveReader& archive, std::string_view prefix, Stream& stream) {
  for (const Slot& slot : slots_) {
    archive.tensor(join_path(join_path(prefix, "m"), slot.path), slot.m, stream);
    archive.tensor(join_path(join_path(prefix, "v"), slot.path), slot.v, stream);
  }
}

double global_norm(const std::vector<Tensor>& tensors, Stream& stream) {
  if (tensors.empty()) return 0;
  const Tensor sum = Tensor::zeros({1}, DType::f64, stream);
  for (const Tensor& tensor : tensors) {
    dispatch<double, float>(tensor.dtype(), "global_norm", [&]<class T>() {
      launch(
          SumSquares<T>{
              .x = flat<const T>(tensor, "x"), .sum = sum.view<double, 1>("sum"), .accumulate = true},
          stream);
    });
  }
  return std::sqrt(sum.to_vector<double>(stream)[0]);
}

}  // namespace headway
