#include "trainers/optimizer.h"

#include <cmath>

#include "autograd/ops/flat.h"
#include "core/error.h"
#include "kernels/ops/adamw.h"

namespace headway {
namespace {

Tensor part_of(const Tensor& whole, const Range& range) {
  return whole.reshape({whole.numel()}).slice(0, range.lo, range.hi);
}

}  // namespace

AdamW::AdamW(Module& model, const AdamWConfig& config, Stream& stream) : model_(model), config_(config) {
  add_slots(model, nullptr, 0, stream);
}

AdamW::AdamW(Module& model, const AdamWConfig& config, const FlatLayout& layout, Communicator& comm,
             Stream& stream)
    : model_(model), config_(config) {
  add_slots(model, &layout, comm.rank(), stream);
  shards_ = Shards{&layout, &comm, comm.allocate({layout.numel()}, layout.dtype(), stream.device()), {}, {}};
  shards_->values.fill_zero(stream);
  for (size_t i = 0; i < slots_.size(); ++i) {
    Parameter& parameter = *slots_[i].parameter;
    const Tensor moved = layout.view(shards_->values, i);
    moved.copy_from(parameter.value, stream);
    if (!parameter.is_rounded()) parameter.compute = moved;
    parameter.value = moved;
  }
}

void AdamW::add_slots(Module& model, const FlatLayout* layout, int rank, Stream& stream) {
  model.visit("", [&](const std::string& path, Parameter& parameter) {
    if (parameter.frozen) return;
    Slot& slot = slots_.emplace_back(Slot{path, &parameter, {}});
    const std::vector<Range> whole{{0, parameter.shape.numel()}};
    for (const Range& range : layout ? layout->parts_of(slots_.size() - 1, rank) : whole) {
      const auto zeros = [&] { return Tensor::zeros({range.size()}, parameter.value.dtype(), stream); };
      slot.parts.push_back({range, zeros(), zeros()});
    }
  });
}

void AdamW::step(int64_t step, double learning_rate, const Tensor& grad_scale, Stream& stream) {
  const auto t = static_cast<double>(step);
  if (slots_.empty()) return;
  dispatch<double, float>(slots_.front().parameter->value.dtype(), "adamw", [&]<class T>() {
    std::vector<AdamWParameter<T>> parameters;
    for (const Slot& slot : slots_) {
      const Parameter& parameter = *slot.parameter;
      for (const auto& [range, m, v] : slot.parts)
        parameters.push_back(
            {.p = part_of(parameter.value, range).template view<T, 1>("p"),
             .m = m.template view<T, 1>("m"),
             .v = v.template view<T, 1>("v"),
             .grad = part_of(parameter.gradient->grad, range).template view<const T, 1>("grad"),
             .rounded = parameter.is_rounded() && !shards_
                            ? part_of(parameter.compute, range).template view<bf16, 1>("compute")
                            : View<bf16, 1>(),
             .decay = parameter.decay ? config_.weight_decay : 0});
    }
    launch(AdamWUpdate<T>{.parameters = parameters,
                          .grad_scale = grad_scale.view<const double, 1>("grad_scale"),
                          .lr = learning_rate,
                          .beta1 = config_.beta1,
                          .beta2 = config_.beta2,
                          .eps = config_.eps,
                          .correction1 = 1 - std::pow(config_.beta1, t),
                          .correction2 = 1 - std::pow(config_.beta2, t)},
           stream);
  });
  if (!shards_) return;
  for (const Range& piece : shards_->layout->pieces())
    shards_->comm->all_gather(shards_->values.slice(0, piece.lo, piece.hi), stream);
  model_.round_weights(stream);
}

Tensor AdamW::gathered(Tensor Part::*moment, Stream& stream) const {
  const auto& [layout, comm, values, m, v] = *shards_;
  const Tensor all = Tensor::zeros(values.shape(), values.dtype(), stream);
  for (size_t i = 0; i < slots_.size(); ++i)
    for (const Part& part : slots_[i].parts)
      part_of(layout->view(all, i), part.range).copy_from(part.*moment, stream);
  for (const Range& piece : layout->pieces()) comm->all_gather(all.slice(0, piece.lo, piece.hi), stream);
  return all;
}

void AdamW::gather_moments(Stream& stream) {
  if (!shards_) return;
  shards_->m = gathered(&Part::m, stream);
  shards_->v = gathered(&Part::v, stream);
}

void AdamW::keep_own_moments(Stream& stream) {
  if (!shards_) return;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const auto [m, v] = moments(i);
    for (const Part& part : slots_[i].parts) {
      part.m.copy_from(part_of(m, part.range), stream);
      part.v.copy_from(part_of(v, part.range), stream);
    }
  }
  shards_->m = shards_->v = Tensor();
}

std::pair<Tensor, Tensor> AdamW::moments(size_t slot) const {
  if (!shards_) {
    const Shape& shape = slots_[slot].parameter->shape;
    const Part& whole = slots_[slot].parts.front();
    return {whole.m.reshape(shape), whole.v.reshape(shape)};
  }
  HEADWAY_CHECK(shards_->m, CheckpointError, "a sharded optimiser is saved before its moments are gathered");
  return {shards_->layout->view(shards_->m, slot), shards_->layout->view(shards_->v, slot)};
}

void AdamW::save(ArchiveWriter& archive, std::string_view prefix) const {
  for (size_t i = 0; i < slots_.size(); ++i) {
    const auto [m, v] = moments(i);
    archive.tensor(join_path(join_path(prefix, "m"), slots_[i].path), m);
    archive.tensor(join_path(join_path(prefix, "v"), slots_[i].path), v);
  }
}

void AdamW::load(ArchiveReader& archive, std::string_view prefix, Stream& stream) {
  for (size_t i = 0; i < slots_.size(); ++i) {
    const auto [m, v] = moments(i);
    archive.tensor(join_path(join_path(prefix, "m"), slots_[i].path), m, stream);
    archive.tensor(join_path(join_path(prefix, "v"), slots_[i].path), v, stream);
  }
}

void add_squares(const std::vector<Tensor>& tensors, const Tensor& sum, Stream& stream) {
  for (const Tensor& tensor : tensors) {
    dispatch<double, float>(tensor.dtype(), "add_squares", [&]<class T>() {
      launch(
          SumSquares<T>{
              .x = flat<const T>(tensor, "x"), .sum = sum.view<double, 1>("sum"), .accumulate = true},
          stream);
    });
  }
}

double global_norm(const std::vector<Tensor>& tensors, Stream& stream) {
  const Tensor sum = Tensor::zeros({1}, DType::f64, stream);
  add_squares(tensors, sum, stream);
  return std::sqrt(sum.to_vector<double>(stream)[0]);
}

}  // namespace headway
