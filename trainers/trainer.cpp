#include "trainers/trainer.h"

#include <fmt/format.h>
#include <omp.h>
#include <sys/resource.h>

#include <array>
#include <cmath>

#include "autograd/engine.h"
#include "autograd/loss_collector.h"
#include "core/backend.h"
#include "core/comm/agreement.h"
#include "trainers/evaluator.h"
#include "trainers/generator.h"
#include "trainers/progress.h"
#include "trainers/stop_signal.h"

namespace headway {
namespace {

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double peak_memory_gib(Device device) {
  if (device.kind == Device::Kind::cuda)
    return static_cast<double>(memory_stats(device).peak_reserved_bytes) * 0x1p-30;
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 0x1p-20;  // ru_maxrss is in KiB
}

/// All ranks must have read the same text: DataError on all where one differs.
void require_same_data(const std::string& fingerprint, Communicator& comm, Stream& stream) {
  const auto bits = static_cast<int64_t>(std::stoull(fingerprint.substr(0, 15), nullptr, 16));
  const std::array<int64_t, 2> both{bits, -bits};
  const Tensor extremes = Tensor::from<int64_t>(both, {2}, stream);
  comm.all_reduce(extremes, Reduce::max, stream);
  const std::vector<int64_t> all = extremes.to_vector<int64_t>(stream);
  HEADWAY_CHECK(all[0] == -all[1], DataError,
                "the ranks read different training data: every machine needs the same files");
}

}  // namespace

bool Trainer::StepResult::is_finite() const { return std::isfinite(loss) && std::isfinite(grad_norm); }

Trainer::Trainer(const Recipe& recipe, Communicator& comm, Stream& stream)
    : recipe_(recipe), comm_(comm), stream_(stream), rng_(static_cast<uint64_t>(recipe.run.seed)) {
  accumulation_steps_ = recipe_.accumulation_steps(comm.size());
  HEADWAY_CHECK(recipe_.train.dtype == "fp32" || stream.device().kind == Device::Kind::cuda, ConfigError,
                "train.dtype = \"bf16\" needs a GPU: use fp32 on the CPU");
  agree(comm_, stream_, [&] {
    tokenizer_ = recipe_.data.make_tokenizer();
    recipe_.resolve(tokenizer_->vocab_size());
    examples_ = ExampleSource::open(recipe_.data, *tokenizer_, recipe_.run.seed, recipe_.model.vocab_size);
    order_.emplace(static_cast<uint64_t>(recipe_.run.seed), examples_->num_examples(Split::train));
  });
  require_same_data(examples_->fingerprint(), comm_, stream_);

  const DType dtype = recipe_.train.dtype == "bf16" ? DType::bf16 : DType::f32;
  agree(comm_, stream_, [&] {
    model_ = std::make_unique<Model>(recipe_.model);
    model_->materialize(dtype, static_cast<uint64_t>(recipe_.run.seed), stream_);
    if (!recipe_.train.only.empty()) model_->train_only(recipe_.train.only);
    model_->visit("", [&](const std::string&, Parameter& parameter) {
      if (!parameter.frozen) parameters_.push_back(&parameter);
    });
    optimizer_ = std::make_unique<AdamW>(*model_,
                                         AdamWConfig{recipe_.optim.betas[0], recipe_.optim.betas[1],
                                                     recipe_.optim.eps, recipe_.optim.weight_decay},
                                         stream_);
  });
  std::vector<Shape> shapes;
  for (const Parameter* parameter : parameters_) shapes.push_back(parameter->shape);
  reducer_ = std::make_unique<GradReducer>(comm_, stream_, shapes, DType::f32,
                                           static_cast<size_t>(recipe_.comm.bucket_mib) << 20);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i]->gradient->grad = reducer_->gradient(i);
    parameters_[i]->gradient->on_ready = [this, i] { reducer_->ready(i); };
  }
  schedule_ = {.kind = Schedule::parse_kind(recipe_.schedule.kind),
               .warmup_steps = recipe_.schedule.warmup_steps,
               .total_steps = recipe_.total_steps(),
               .min_ratio = recipe_.schedule.min_lr_ratio,
               .decay_fraction = recipe_.schedule.decay_fraction};
  model_state_ = std::make_unique<ModelState>(*model_);
  tokenizer_state_ = std::make_unique<TokenizerState>(*tokenizer_);
  data_state_.fingerprint = examples_->fingerprint();
  data_state_.seed = recipe_.run.seed;
  data_state_.seq_len = recipe_.data.seq_len;

  // A mistake in checkpoint.init must not leave a folder that then counts as used.
  if (recipe_.checkpoint.resume == "never") load_initial_weights();
  open_run_folder();
  resume();
}

std::vector<NamedState> Trainer::states() {
  return {{"model", model_state_.get()},
          {"optim/adamw", optimizer_.get()},
          {"state", &run_state_},
          {"data", &data_state_},
          {"tokenizer", tokenizer_state_.get()}};
}

int64_t Trainer::last_step() const {
  return recipe_.train.stop_step > 0 ? recipe_.train.stop_step : recipe_.total_steps();
}

void Trainer::open_run_folder() {
  const UsedFolder used = recipe_.run.force_new                  ? UsedFolder::replace
                          : recipe_.checkpoint.resume == "never" ? UsedFolder::refuse
                                                                 : UsedFolder::resume;
  agree(comm_, stream_, [&] {
    if (!is_main()) return;
    folder_ = std::make_unique<RunFolder>(recipe_.run_folder(), used);
    folder_->write_text("recipe.toml", recipe_.source);
    folder_->write_text("recipe.resolved.toml", recipe_.to_toml());
  });
  checkpoints_ = std::make_unique<CheckpointFolder>(
      recipe_.run_folder() / "checkpoints",
      Retention{.keep_last = recipe_.checkpoint.keep_last, .keep_every = recipe_.checkpoint.keep_every},
      comm_, stream_);
}

void Trainer::resume() {
  std::optional<std::filesystem::path> path;
  if (recipe_.checkpoint.resume == "auto") {
    const NewestValid newest = checkpoints_->newest_valid();
    for (const std::string& reason : newest.rejected) say("skipped a checkpoint: " + reason);
    path = newest.path;
  } else if (recipe_.checkpoint.resume != "never") {
    path = recipe_.checkpoint.resume;
  }
  if (path) {
    checkpoints_->load(*path, states());
    saved_step_ = run_state_.step;
    say(fmt::format("resumed {} at step {}, sequence {} of epoch {}", path->string(), run_state_.step,
                    data_state_.cursor % order_->num_samples(), order_->epoch(data_state_.cursor)));
  } else if (recipe_.checkpoint.resume == "auto") {
    load_initial_weights();
  }
  agree(comm_, stream_, [&] {
    if (!is_main()) return;
    metrics_ = std::make_unique<MetricsLog>(folder_->path(), run_state_.step);
    record_ = std::make_unique<RunRecord>(folder_->path(),
                                          RunRecord::Start{.name = recipe_.run.name,
                                                           .device = backend(stream_.device()).description(),
                                                           .num_ranks = comm_.size(),
                                                           .num_threads = omp_get_max_threads(),
                                                           .step = run_state_.step});
  });
}

void Trainer::load_initial_weights() {
  if (recipe_.checkpoint.init.empty()) return;
  agree(comm_, stream_, [&] {
    const auto reader = open_checkpoint(recipe_.checkpoint.init);
    const MatchingWeights weights = load_matching_weights(*reader, *model_, stream_);
    const auto some = [](std::string_view what, const std::vector<std::string>& paths) {
      if (paths.empty()) return std::string();
      return fmt::format("; {}: {}{}", what, paths[0],
                         paths.size() > 1 ? fmt::format(" and {} more", paths.size() - 1) : "");
    };
    initial_weights_ = fmt::format("began with {} of {} parameter tensors from {}{}{}", weights.loaded.size(),
                                   weights.loaded.size() + weights.missing.size(), reader->source(),
                                   some("random", weights.missing), some("left out", weights.unused));
  });
}

void Trainer::say(std::string_view line) {
  if (folder_) folder_->say(line);
}

void Trainer::announce() {
  say(fmt::format("headway {}: {} parameters, {} layers of {} attention", recipe_.run.name,
                  format_count(static_cast<double>(model_->num_parameters())), recipe_.model.num_layers,
                  recipe_.model.attention.summary(recipe_.model.num_layers)));
  say(fmt::format("device {}, {} rank{}, {}", backend(stream_.device()).description(), comm_.size(),
                  comm_.size() == 1 ? "" : "s", recipe_.train.dtype));
  say(fmt::format("data {}", examples_->description()));
  if (!initial_weights_.empty()) say(initial_weights_);
  say(fmt::format("batch {} tokens = {} ranks x {} sequences x {} tokens x {} accumulated",
                  recipe_.train.batch_tokens, comm_.size(), recipe_.train.micro_batch, recipe_.data.seq_len,
                  accumulation_steps_));
}

ExitCode Trainer::run() {
  const auto fail = [this](ExitCode code, const char* reason) {
    if (record_) record_->fail(code, reason, run_state_.step);
  };
  try {
    const ExitCode code = train();
    if (record_) record_->end(code, run_state_.step);
    return code;
  } catch (const Error& error) {
    fail(error.code(), error.what());
    throw;
  } catch (const std::exception& error) {
    fail(ExitCode::unexpected, error.what());
    throw;
  }
}

ExitCode Trainer::train() {
  announce();
  while (run_state_.step < last_step()) {
    const auto start = Clock::now();
    const int64_t step = run_state_.step + 1;
    MetricRow row;
    row.add("step", static_cast<double>(step));
    const bool logs_attention = recipe_.log.attention_every > 0 && step % recipe_.log.attention_every == 0;
    const bool logs = step % recipe_.log.every_steps == 0 || step == last_step() || logs_attention;
    const StepResult result = train_step(logs, logs_attention ? &row : nullptr);
    const double seconds = milliseconds_since(start) / 1e3;
    // The first steps are slow (memory is touched for the first time); the mean forgets them.
    seconds_per_step_ = seconds_per_step_ == 0 ? seconds : 0.9 * seconds_per_step_ + 0.1 * seconds;

    if (logs) log(result, row, seconds);
    const bool evaluates = recipe_.eval.every_steps > 0 && step % recipe_.eval.every_steps == 0;
    if (evaluates || step == last_step()) evaluate_and_log();
    if (result.save_due || result.stop_requested || step == last_step()) save();
    if (result.stop_requested) {
      say(fmt::format(
          "stopped on request at step {}; run the same command with checkpoint.resume=auto to go on", step));
      return ExitCode::stopped_on_request;
    }
  }
  if (saved_step_ != run_state_.step) save();
  write_sample();
  return ExitCode::ok;
}

Trainer::StepResult Trainer::train_step(bool logs, MetricSink* metrics) {
  StepResult result;
  const auto start = Clock::now();
  const int64_t per_rank = accumulation_steps_ * recipe_.train.micro_batch;
  const int64_t first = data_state_.cursor + comm_.rank() * per_rank;
  std::vector<Batch> batches;
  std::vector<int64_t> sample_ids;
  int64_t num_targets = 0;
  agree(comm_, stream_, [&] {
    for (int64_t i = 0; i < accumulation_steps_; ++i) {
      batches.push_back(training_batch(*examples_, *order_, first + i * recipe_.train.micro_batch,
                                       recipe_.train.micro_batch, recipe_.data.seq_len, stream_));
      num_targets += batches.back().num_targets;
      sample_ids.insert(sample_ids.end(), batches.back().sample_ids.begin(), batches.back().sample_ids.end());
    }
  });
  result.data_ms = milliseconds_since(start);

  const Tensor count = Tensor::from<int64_t>(std::array{num_targets}, {1}, stream_);
  comm_.all_reduce(count, Reduce::sum, stream_);
  const auto global_tokens = count.to_vector<int64_t>(stream_)[0];

  double loss = 0;
  accumulate_gradients(batches, 1 / static_cast<double>(global_tokens), logs, metrics, result, loss);
  agree_on(result, loss);
  if (result.is_finite()) {
    skipped_in_a_row_ = 0;
    update(result);
  } else {
    report_nonfinite(result, sample_ids);
  }
  ++run_state_.step;
  run_state_.tokens += global_tokens;
  data_state_.cursor += per_rank * comm_.size();
  return result;
}

void Trainer::accumulate_gradients(const std::vector<Batch>& batches, double loss_scale, bool logs,
                                   MetricSink* metrics, StepResult& result, double& total_loss) {
  for (Parameter* parameter : parameters_) parameter->gradient->written = false;
  const int64_t first = comm_.rank() * accumulation_steps_ * recipe_.train.micro_batch;
  for (size_t i = 0; i < batches.size(); ++i) {
    const bool last = i + 1 == batches.size();
    rng_.begin(static_cast<uint32_t>(run_state_.step),
               static_cast<uint64_t>(first + static_cast<int64_t>(i) * recipe_.train.micro_batch));
    LossCollector auxiliary;
    Context ctx{.stream = stream_,
                .rng = rng_,
                .training = true,
                .recording = true,
                .auxiliary = &auxiliary,
                .metrics = last ? metrics : nullptr};
    std::vector<Variable> roots{model_->loss(ctx, batches[i].tokens, batches[i].targets, loss_scale,
                                             recipe_.train.recompute ? Recompute::blocks : Recompute::off)};
    result.saved_bytes = std::max(result.saved_bytes, saved_bytes(roots[0]));
    total_loss += static_cast<double>(roots[0].value().to_vector<float>(stream_)[0]);

    // Each micro-batch of each rank has an auxiliary loss of its own: the step's is their mean.
    const double share = 1 / static_cast<double>(static_cast<int64_t>(batches.size()) * comm_.size());
    std::vector<Tensor> seeds{Tensor::from<float>(std::array{1.0f}, {1}, stream_)};
    std::map<std::string, double> per_kind;
    for (const AuxiliaryLoss& loss : auxiliary.losses()) per_kind[loss.name] += 1;
    for (const AuxiliaryLoss& loss : auxiliary.losses()) {
      if (logs)
        result.auxiliary[loss.name] +=
            share / per_kind[loss.name] * static_cast<double>(loss.loss.value().to_vector<float>(stream_)[0]);
      roots.push_back(loss.loss);
      seeds.push_back(Tensor::from<float>(std::array{static_cast<float>(loss.weight * share)}, {1}, stream_));
    }
    backward(ctx, roots, seeds, last ? MicroStep::last : MicroStep::more_follow);
  }
  for (Parameter* parameter : parameters_) {
    if (parameter->gradient->written) continue;
    parameter->gradient->grad.fill_zero(stream_);
    parameter->gradient->written = true;
    parameter->gradient->on_ready();
  }
  const auto start = Clock::now();
  reducer_->finish();
  result.comm_ms = milliseconds_since(start);
}

void Trainer::agree_on(StepResult& result, double local_loss) {
  const int64_t step = run_state_.step + 1;
  const double seconds = milliseconds_since(last_save_) / 1e3;
  // The clock of rank 0 decides when a checkpoint is due.
  const bool due_by_time =
      is_main() && recipe_.checkpoint.every_seconds > 0 && seconds >= recipe_.checkpoint.every_seconds;
  std::vector<double> local{local_loss, stop_signal_received() != 0 ? 1.0 : 0.0, due_by_time ? 1.0 : 0.0};
  for (const auto& [name, value] : result.auxiliary) local.push_back(value);
  const Tensor sums = Tensor::from<double>(local, {static_cast<int64_t>(local.size())}, stream_);
  comm_.all_reduce(sums, Reduce::sum, stream_);
  const std::vector<double> all = sums.to_vector<double>(stream_);
  for (size_t i = 3; auto& [name, value] : result.auxiliary) value = all[i++];
  result.loss = all[0];
  result.stop_requested = all[1] > 0;
  result.save_due =
      all[2] > 0 || (recipe_.checkpoint.every_steps > 0 && step % recipe_.checkpoint.every_steps == 0);

  result.grad_norm = global_norm({reducer_->flat()}, stream_);
  result.learning_rate = recipe_.optim.lr * schedule_.factor(run_state_.step);
}

void Trainer::update(StepResult& result) {
  const double clip = recipe_.train.grad_clip;
  const double scale = clip > 0 && result.grad_norm > clip ? clip / result.grad_norm : 1;
  optimizer_->step(run_state_.step + 1, result.learning_rate, scale, stream_);
  Rng rng(0);
  Context ctx{.stream = stream_, .rng = rng};
  for (const auto& block : model_->blocks()) block->attention().after_step(ctx, comm_);
}

void Trainer::report_nonfinite(const StepResult& result, const std::vector<int64_t>& sample_ids) {
  ++run_state_.skipped;
  ++skipped_in_a_row_;
  std::string where;
  for (const Parameter* parameter : parameters_) {
    if (!std::isfinite(global_norm({parameter->gradient->grad}, stream_))) {
      model_->visit("", [&](const std::string& path, Parameter& p) {
        if (&p == parameter) where = path;
      });
      break;
    }
  }
  const std::string message = fmt::format(
      "step {}: loss {} and gradient norm {} are not finite{}; the first sample of rank 0 was {}",
      run_state_.step + 1, result.loss, result.grad_norm,
      where.empty() ? "" : fmt::format(" (first in the gradient of {})", where), sample_ids.front());
  const bool gives_up =
      recipe_.train.on_nonfinite == "stop" || skipped_in_a_row_ >= recipe_.train.max_skipped;
  if (!gives_up) {
    say(message + "; the update is skipped");
    return;
  }
  --run_state_.skipped;
  save();  // the last good state: nothing has been updated
  throw NumericError(message);
}

void Trainer::log(const StepResult& result, MetricRow& row, double step_seconds) {
  if (!is_main()) return;
  const auto tokens = static_cast<double>(recipe_.train.batch_tokens);
  const double tokens_per_second = tokens / step_seconds;
  const double clip = recipe_.train.grad_clip;
  row.add("tokens", static_cast<double>(run_state_.tokens));
  row.add("train/loss", result.loss);
  row.add("train/ppl", std::exp(result.loss));
  for (const auto& [name, value] : result.auxiliary) row.add("train/" + name, value);
  row.add("train/grad_norm", result.grad_norm);
  row.add("train/clipped", clip > 0 && result.grad_norm > clip ? 1 : 0);
  row.add("train/skipped_total", static_cast<double>(run_state_.skipped));
  row.add("optim/lr", result.learning_rate);
  row.add("perf/tokens_per_s", tokens_per_second);
  row.add("perf/step_ms", step_seconds * 1e3);
  row.add("perf/data_ms", result.data_ms);
  row.add("perf/comm_ms", result.comm_ms);
  row.add("mem/peak_gib", peak_memory_gib(stream_.device()));
  row.add("mem/saved_mib", static_cast<double>(result.saved_bytes) * 0x1p-20);
  row.add("progress/tokens", static_cast<double>(run_state_.tokens));
  row.add("progress/epoch",
          static_cast<double>(data_state_.cursor) / static_cast<double>(order_->num_samples()));
  metrics_->write(row);
  std::string auxiliary;
  for (const auto& [name, value] : result.auxiliary) auxiliary += fmt::format(" | {} {:.4f}", name, value);
  say(progress_line(
          {.step = run_state_.step,
           .last_step = last_step(),
           .loss = result.loss,
           .learning_rate = result.learning_rate,
           .grad_norm = result.grad_norm,
           .tokens_per_second = tokens_per_second,
           .peak_memory_gib = peak_memory_gib(stream_.device()),
           .seconds_left = seconds_per_step_ * static_cast<double>(last_step() - run_state_.step)}) +
      auxiliary);
}

void Trainer::evaluate_and_log() {
  if (examples_->num_examples(Split::validation) == 0) return;
  const Evaluation evaluation = evaluate(*model_, *examples_,
                                         {.batches = recipe_.eval.batches,
                                          .micro_batch = recipe_.train.micro_batch,
                                          .seq_len = recipe_.data.seq_len},
                                         comm_, stream_);
  if (!is_main()) return;
  MetricRow row;
  row.add("step", static_cast<double>(run_state_.step));
  row.add("tokens", static_cast<double>(run_state_.tokens));
  row.add("val/loss", evaluation.loss);
  row.add("val/ppl", std::exp(evaluation.loss));
  if (evaluation.bits_per_byte > 0) row.add("val/bpb", evaluation.bits_per_byte);
  if (examples_->asks_questions()) {
    row.add("val/accuracy", evaluation.accuracy);
    row.add("val/exact_match", evaluation.exact_match);
  }
  metrics_->write(row);
  metrics_->write_csv();
  say(fmt::format(
      "step {}/{} | val loss {:.4f} | ppl {:.3f}{}{} | {} tokens", run_state_.step, last_step(),
      evaluation.loss, std::exp(evaluation.loss),
      evaluation.bits_per_byte > 0 ? fmt::format(" | {:.3f} bits per byte", evaluation.bits_per_byte) : "",
      examples_->asks_questions() ? fmt::format(" | accuracy {:.4f}", evaluation.accuracy) : "",
      format_count(static_cast<double>(evaluation.num_tokens))));
}

void Trainer::save() {
  RunInfo info{
      .step = run_state_.step, .tokens = run_state_.tokens, .recipe = recipe_.to_toml(), .environment = {}};
  info.environment = {.world_size = comm_.size(),
                      .threads = omp_get_max_threads(),
                      .is_deterministic = recipe_.run.deterministic,
                      .device = stream_.device().to_string(),
                      .dtype = recipe_.train.dtype,
                      .libraries = ""};
  const SaveReport report = checkpoints_->save(states(), info);
  saved_step_ = run_state_.step;
  last_save_ = Clock::now();
  for (const std::string& warning : report.warnings) say(warning);
  say(fmt::format("saved {} ({:.1f} MiB in {:.2f} s)", report.path.string(),
                  static_cast<double>(report.bytes) * 0x1p-20, report.seconds));
}

void Trainer::write_sample() {
  if (!is_main() || recipe_.generate.tokens == 0 || examples_->asks_questions()) return;
  const std::string text = generate(*model_, *tokenizer_, recipe_.generate,
                                    static_cast<uint64_t>(recipe_.run.seed), stream_, nullptr);
  folder_->write_text(fmt::format("samples/step-{:08}.txt", run_state_.step), recipe_.generate.prompt + text);
  say("sample:\n" + recipe_.generate.prompt + text);
}

}  // namespace headway
