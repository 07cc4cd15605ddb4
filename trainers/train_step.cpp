#include "trainers/train_step.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>

#include "autograd/engine.h"
#include "autograd/loss_collector.h"
#include "autograd/ops/flat.h"
#include "core/error.h"
#include "core/profile.h"
#include "kernels/ops/step_control.h"

namespace headway {
namespace {

/// Places in the tensor of a step's numbers.
enum Place : int64_t { squares = StepControl::state_size, loss, auxiliary, num_places = auxiliary + 16 };

Tensor at(const Tensor& numbers, int64_t place) { return numbers.slice(0, place, place + 1); }

/// On a GPU a reduction takes multiprocessors away from a matrix product that counts on all of them, whatever
/// its size: few large ones delay the step less than many small ones.
size_t bucket_bytes(int64_t mib, Device device) {
  if (mib == 0) mib = device.kind == Device::Kind::cuda ? 128 : 32;
  return static_cast<size_t>(mib) << 20;
}

void add_to_sum(const Tensor& value, const Tensor& sum, double weight, Stream& stream) {
  launch(AddToSum{.value = value.reshape({1}).view<const float, 1>("value"),
                  .sum = sum.view<double, 1>("sum"),
                  .weight = weight},
         stream);
}

}  // namespace

StepNumbers TrainStep::Pending::wait() const {
  done_->synchronize();
  const double* const numbers = numbers_.data<double>();
  StepNumbers result{.loss = numbers[Place::loss],
                     .grad_norm = numbers[StepControl::norm],
                     .is_good = numbers[StepControl::bad_in_a_row] == 0};
  for (size_t i = 0; i < auxiliary_.size(); ++i)
    result.auxiliary[auxiliary_[i]] = numbers[static_cast<size_t>(Place::auxiliary) + i];
  return result;
}

TrainStep::TrainStep(Model& model, const Recipe& recipe, Communicator& comm, Stream& stream)
    : recipe_(recipe),
      comm_(comm),
      groups_(recipe, comm),
      stream_(stream),
      model_(model),
      rng_(static_cast<uint64_t>(recipe.run.seed)),
      memory_(stream.device()),
      records_(recipe.train.cuda_graphs && stream.device().kind == Device::Kind::cuda) {
  std::vector<Shape> shapes;
  model_.visit("", [&](const std::string& path, Parameter& parameter) {
    if (parameter.frozen) return;
    slots_.push_back({path, &parameter});
    shapes.push_back(parameter.shape);
  });
  const bool shards = recipe.train.shard_optimizer && comm.size() > 1;
  reducer_ = std::make_unique<GradReducer>(comm, stream, shapes, DType::f32,
                                           bucket_bytes(recipe.comm.bucket_mib, stream.device()),
                                           shards ? GradSums::own_parts : GradSums::all);
  for (size_t i = 0; i < slots_.size(); ++i) {
    GradBuffer& gradient = *slots_[i].parameter->gradient;
    gradient.grad = reducer_->gradient(i);
    gradient.on_ready = [this, i] { reducer_->ready(i); };
  }
  const AdamWConfig config{recipe.optim.betas[0], recipe.optim.betas[1], recipe.optim.eps,
                           recipe.optim.weight_decay};
  if (shards)
    optimizer_.emplace(model, config, reducer_->layout(), comm, stream);
  else
    optimizer_.emplace(model, config, stream);
  numbers_ = Tensor::zeros({Place::num_places}, DType::f64, stream);
}

const Tensor& TrainStep::constant(double value) {
  Tensor& tensor = constants_[value];
  if (!tensor) tensor = Tensor::from<float>(std::array{static_cast<float>(value)}, {1}, stream_);
  return tensor;
}

TrainStep::Pending TrainStep::run(std::vector<Batch> batches, const StepInputs& inputs) {
  Pending pending;
  numbers_.slice(0, Place::squares, Place::num_places).fill_zero(stream_);
  collect_gradients(batches, inputs, pending.auxiliary_);
  const auto start = std::chrono::steady_clock::now();
  reducer_->finish();
  pending.finish_ms_ =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();

  add_squares(reducer_->summed(), at(numbers_, Place::squares), stream_);
  const bool shards = optimizer_->is_sharded();
  comm_.all_reduce(numbers_.slice(0, shards ? Place::squares : Place::loss,
                                  Place::auxiliary + static_cast<int64_t>(pending.auxiliary_.size())),
                   Reduce::sum, stream_);
  const bool stops = recipe_.train.on_nonfinite == "stop";
  launch(StepControl{.loss = at(numbers_, Place::loss).view<const double, 1>("loss"),
                     .squares = at(numbers_, Place::squares).view<const double, 1>("squares"),
                     .state = numbers_.slice(0, 0, StepControl::state_size).view<double, 1>("state"),
                     .max_norm = recipe_.train.grad_clip,
                     .limit = stops ? 1.0 : static_cast<double>(recipe_.train.max_skipped)},
         stream_);
  const Tensor grad_scale = at(numbers_, StepControl::grad_scale);
  optimizer_->step(inputs.step, inputs.learning_rate, grad_scale, stream_);
  Context ctx{.stream = stream_, .rng = rng_};
  const FinishedStep finished{
      .num_positions = static_cast<int64_t>(batches.size()) * batches.front().tokens.numel() * comm_.size(),
      .grad_scale = grad_scale};
  for (const auto& block : model_.blocks()) block->attention().after_step(ctx, comm_, finished);

  pending.numbers_ = Tensor::empty_on_host(numbers_.shape(), DType::f64, stream_.device());
  pending.numbers_.copy_from(numbers_, stream_);
  pending.done_ = stream_.record();
  pending.batches_ = std::move(batches);
  return pending;
}

void TrainStep::collect_gradients(const std::vector<Batch>& batches, const StepInputs& inputs,
                                  std::vector<std::string>& auxiliary) {
  for (const Slot& slot : slots_) slot.parameter->gradient->written = false;
  for (size_t i = 0; i < batches.size(); ++i)
    micro_step(batches[i], inputs, static_cast<int64_t>(i), auxiliary);
  for (const Slot& slot : slots_) {
    GradBuffer& gradient = *slot.parameter->gradient;
    if (gradient.written) continue;
    gradient.grad.fill_zero(stream_);
    gradient.written = true;
    gradient.on_ready();
  }
}

TrainStep::Recording* TrainStep::recording_of(const Batch& batch, const StepInputs& inputs, int64_t index) {
  constexpr size_t kMostRecordings = 8;  // where loss scales differ from step to step, recording never pays
  // Gradients that become ready start reductions, which belong to no graph, as exchanges of states do.
  const bool reduces = (is_last(index) && comm_.size() > 1) || groups_.split();
  if (!records_ || inputs.metrics || reduces || Profile::current()) return nullptr;
  const Recording::Key key{batch.tokens.shape(), 1 / static_cast<double>(inputs.num_targets), index == 0,
                           is_last(index)};
  const auto found = std::ranges::find(recordings_, key, &Recording::key);
  if (found != recordings_.end()) return &*found;
  if (recordings_.size() < kMostRecordings) recordings_.push_back({.key = key});
  return nullptr;
}

void TrainStep::micro_step(const Batch& batch, const StepInputs& inputs, int64_t index,
                           std::vector<std::string>& auxiliary) {
  const PrivateMemory::Scope scope(memory_);
  Recording* const recording = recording_of(batch, inputs, index);
  if (!recording) {
    // Random numbers are arguments of the kernels that use them, different ones in every step.
    if (launch_micro_step(batch.tokens, batch.targets, inputs, index, auxiliary)) records_ = false;
    return;
  }
  if (!recording->tokens) {
    recording->tokens = Tensor::empty(batch.tokens.shape(), DType::i32, stream_.device());
    recording->targets = Tensor::empty(batch.targets.shape(), DType::i32, stream_.device());
  }
  recording->tokens.copy_from(batch.tokens, stream_);
  recording->targets.copy_from(batch.targets, stream_);
  if (!recording->graph) {
    stream_.begin_recording();
    launch_micro_step(recording->tokens, recording->targets, inputs, index, recording->auxiliary);
    recording->graph = stream_.end_recording();
    for (const Slot& slot : slots_)
      if (slot.parameter->gradient->written) recording->written.push_back(slot.parameter->gradient.get());
  }
  recording->graph->launch(stream_);
  for (GradBuffer* const gradient : recording->written) gradient->written = true;
  auxiliary = recording->auxiliary;
}

bool TrainStep::launch_micro_step(const Tensor& tokens, const Tensor& targets, const StepInputs& inputs,
                                  int64_t index, std::vector<std::string>& auxiliary) {
  const int64_t num_batches = recipe_.accumulation_steps(comm_.size());
  rng_.begin(static_cast<uint32_t>(inputs.step - 1),
             static_cast<uint64_t>((groups_.group() * num_batches + index) * recipe_.train.micro_batch));
  LossCollector collector;
  Context ctx{.stream = stream_,
              .rng = rng_,
              .training = true,
              .recording = true,
              .split = groups_.split(),
              .auxiliary = &collector,
              .metrics = is_last(index) ? inputs.metrics : nullptr};
  const double loss_scale = 1 / static_cast<double>(inputs.num_targets);
  std::vector<Variable> roots{model_.loss(ctx, tokens, targets, loss_scale,
                                          recipe_.train.recompute ? Recompute::blocks : Recompute::off)};
  if (saved_bytes_ == 0) saved_bytes_ = headway::saved_bytes(roots[0]);
  add_to_sum(roots[0].value(), at(numbers_, Place::loss), 1, stream_);

  // Each layer, micro-batch and rank has an auxiliary loss of its own: the step's is their mean.
  const double share = 1 / static_cast<double>(num_batches * comm_.size());
  std::vector<Tensor> seeds{constant(1)};
  std::map<std::string, double> per_kind;
  for (const AuxiliaryLoss& loss : collector.losses()) per_kind[loss.name] += 1;
  for (const AuxiliaryLoss& loss : collector.losses()) {
    const auto found = std::ranges::find(auxiliary, loss.name);
    const auto place = Place::auxiliary + (found - auxiliary.begin());
    if (found == auxiliary.end()) auxiliary.push_back(loss.name);
    HEADWAY_CHECK(place < Place::num_places, ShapeError,
                  fmt::format("layers add more than {} kinds of losses", place - Place::auxiliary));
    const double part = share / per_kind[loss.name];
    add_to_sum(loss.loss.value(), at(numbers_, place), part, stream_);
    roots.push_back(loss.loss);
    seeds.push_back(constant(loss.weight * part));
  }
  backward(ctx, roots, seeds, is_last(index) ? MicroStep::last : MicroStep::more_follow);
  return rng_.position() > 0;
}

std::string TrainStep::find_bad_gradient(const std::vector<Batch>& batches, const StepInputs& inputs) {
  std::vector<std::string> auxiliary;
  collect_gradients(batches, inputs, auxiliary);
  reducer_->finish();
  for (const Slot& slot : slots_)
    if (!std::isfinite(global_norm({slot.parameter->gradient->grad}, stream_))) return slot.path;
  return "";
}

}  // namespace headway
