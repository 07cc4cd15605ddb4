#include "trainers/trainer.h"

#include <fmt/format.h>
#include <omp.h>
#include <sys/resource.h>

#include <array>
#include <cmath>
#include <utility>

#include "core/backend.h"
#include "core/comm/agreement.h"
#include "core/failure.h"
#include "core/io/digest.h"
#include "core/stop_signal.h"
#include "kernels/cpu/blas_core.h"
#include "kernels/kernel_choice.h"
#include "trainers/generator.h"
#include "trainers/progress.h"
#include "trainers/recipe_changes.h"

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
void require_same_data(const std::string& fingerprint, Communicator& comm) {
  const std::string digest = xxh3_64(fingerprint.data(), fingerprint.size());
  const auto bits = static_cast<int64_t>(std::stoull(digest.substr(0, 15), nullptr, 16));
  const std::array<int64_t, 2> both{bits, -bits};
  const std::vector<int64_t> all = all_reduce_values(comm, both, Reduce::max);
  HEADWAY_CHECK(all[0] == -all[1], DataError,
                "the ranks read different training or held-out data: every machine needs the same files");
}

/// A run that has saved must not begin again because its checkpoints are gone. CheckpointError.
void require_new_run(const std::filesystem::path& folder) {
  const std::string status = RunRecord::status_of(folder);
  HEADWAY_CHECK(
      status != "finished" && status != "stopped" && !had_checkpoints(folder / "checkpoints"),
      CheckpointError,
      fmt::format(
          "{}: no checkpoint is there any more, although the run has saved some: bring them back, name "
          "one in checkpoint.resume, or start over with run.force_new = true",
          (folder / "checkpoints").string()));
}

}  // namespace

Trainer::Trainer(const Recipe& recipe, Communicator& comm, Stream& stream)
    : recipe_(recipe), comm_(comm), stream_(stream) {
  accumulation_steps_ = recipe_.accumulation_steps(comm.size());
  HEADWAY_CHECK(recipe_.train.dtype == "fp32" || stream.device().kind == Device::Kind::cuda, ConfigError,
                "train.dtype = \"bf16\" needs a GPU: use fp32 on the CPU");
  agree(comm_, [&] {
    tokenizer_ = recipe_.data.make_tokenizer();
    recipe_.resolve(tokenizer_->vocab_size());
  });
  documents_ = open_documents(recipe_.data, *tokenizer_, comm_);
  agree(comm_, [&] {
    open_data();
    if (examples_->largest_shard_id() >= tokenizer_->vocab_size())
      tokenizer_ = make_symbol_tokenizer(static_cast<int32_t>(recipe_.model.vocab_size));
    choose_prompt();
  });
  require_same_data(examples_->fingerprint(), comm_);

  const DType dtype = recipe_.train.dtype == "bf16" ? DType::bf16 : DType::f32;
  agree(comm_, [&] {
    model_ = std::make_unique<Model>(recipe_.model);
    model_->materialize(dtype, static_cast<uint64_t>(recipe_.run.seed), stream_);
    if (!recipe_.train.only.empty()) model_->train_only(recipe_.train.only);
    check_context_parallel(recipe_, *model_);
  });
  train_step_ = std::make_unique<TrainStep>(*model_, recipe_, comm_, stream_);
  schedule_ = {.kind = Schedule::parse_kind(recipe_.schedule.kind),
               .warmup_steps = recipe_.schedule.warmup_steps,
               .total_steps = recipe_.total_steps(),
               .min_ratio = recipe_.schedule.min_lr_ratio,
               .decay_fraction = recipe_.schedule.decay_fraction};
  model_state_ = std::make_unique<ModelState>(*model_);
  tokenizer_state_ = std::make_unique<TokenizerState>(*tokenizer_);

  // Nothing in the folder changes before run(). A mistake in checkpoint.init must not even make one.
  if (recipe_.checkpoint.resume == "never") load_initial_weights();
  take_run_folder();
  resume();
}

void Trainer::open_data() {
  examples_ =
      ExampleSource::open(recipe_.data, *tokenizer_, recipe_.run.seed, recipe_.model.vocab_size, documents_);
  HEADWAY_CHECK(examples_->num_examples(Split::train) > 0, DataError,
                fmt::format("data.val_fraction = {} holds out all of the data: nothing is left to train on",
                            recipe_.data.val_fraction));
  order_.emplace(static_cast<uint64_t>(recipe_.run.seed), examples_->num_examples(Split::train));
  const bool is_moving = !recipe_.data.is_task() && recipe_.data.windows == "moving";
  data_state_.order = is_moving ? "permute-v1 of moving windows" : "permute-v1";
  data_state_.fingerprint = examples_->fingerprint();
  data_state_.seed = recipe_.run.seed;
  data_state_.seq_len = recipe_.data.seq_len;
}

void Trainer::choose_prompt() {
  sample_ = recipe_.generate;
  if (recipe_.data.is_task() || sample_.tokens == 0) return;
  if (!unknown_text_note(recipe_.data, *tokenizer_).empty() && !is_prompt(*tokenizer_, sample_.prompt)) {
    const Split split = examples_->num_examples(Split::validation) > 0 ? Split::validation : Split::train;
    std::vector<int32_t> tokens(static_cast<size_t>(recipe_.data.seq_len)), targets(tokens.size());
    examples_->read({split, 0}, tokens, targets);
    sample_.prompt = tokenizer_->decode(std::span(tokens).first(1));
  }
  check_prompt(recipe_.model, *tokenizer_, sample_);
}

std::vector<NamedState> Trainer::states() {
  return {{"model", model_state_.get()},
          {"optim/adamw", &train_step_->optimizer()},
          {"state", &run_state_},
          {"data", &data_state_},
          {"tokenizer", tokenizer_state_.get()}};
}

int64_t Trainer::last_step() const {
  return recipe_.train.stop_step > 0 ? recipe_.train.stop_step : recipe_.total_steps();
}

void Trainer::take_run_folder() {
  const UsedFolder used = recipe_.run.force_new                  ? UsedFolder::replace
                          : recipe_.checkpoint.resume == "never" ? UsedFolder::refuse
                                                                 : UsedFolder::resume;
  agree(comm_, [&] {
    if (is_main()) folder_ = std::make_unique<RunFolder>(recipe_.run_folder(), used);
  });
  checkpoints_ = std::make_unique<CheckpointFolder>(
      recipe_.run_folder() / "checkpoints",
      Retention{.keep_last = recipe_.checkpoint.keep_last, .keep_every = recipe_.checkpoint.keep_every},
      comm_, stream_);
}

void Trainer::resume() {
  const std::string& from = recipe_.checkpoint.resume;
  if (from == "never") return;
  const CheckpointFolder::Objection objection = [this](ArchiveReader& reader, const RunInfo& info) {
    return objection_to(reader, info);
  };
  train_step_->optimizer().gather_moments(stream_);
  if (from == "auto")
    resumption_ = checkpoints_->load_newest(states(), objection);
  else
    resumption_ = Resumption{from, checkpoints_->load(from, states(), objection), {}};
  train_step_->optimizer().keep_own_moments(stream_);
  require_same_data(examples_->fingerprint(), comm_);  // what the checkpoint holds out may have been opened
  if (resumption_) return;
  agree(comm_, [&] { require_new_run(recipe_.run_folder()); });
  load_initial_weights();
}

std::string Trainer::objection_to(ArchiveReader& reader, const RunInfo& info) {
  Recipe stored = stored_recipe(info, reader.source());
  if (std::vector<std::string> kept = keep_data_rules(stored, recipe_); !kept.empty()) {
    kept_rules_ = std::move(kept);
    open_data();
  }
  RecipeChanges changes = compare_recipes(stored, recipe_);
  const DataDigests& before = info.trained_on;
  const DataDigests now = examples_->digests();
  const auto compare = [&](const char* what, const std::string& old_digest, const std::string& new_digest) {
    if (old_digest.empty() || old_digest == new_digest) return false;
    changes.refused.push_back(
        fmt::format("the digest of the {} data: {} -> {}", what, old_digest, new_digest));
    return true;
  };
  const bool is_other_training = compare("training", before.train, now.train);
  const bool is_other_held_out = compare("held-out", before.held_out, now.held_out);
  // Of data whose splits have no digests of their own, and of older checkpoints.
  const std::string difference = data_state_.difference(reader, "data");
  if (!is_other_training && !is_other_held_out && !difference.empty()) changes.refused.push_back(difference);
  accepted_changes_ = std::move(changes.accepted);
  if (changes.refused.empty()) return "";
  return fmt::format("{}: the run cannot go on from it, because what it was trained with differs:\n  {}",
                     reader.source(), fmt::join(changes.refused, "\n  "));
}

void Trainer::open_run_folder() {
  agree(comm_, [&] {
    if (!is_main()) return;
    folder_->clear();
    record_ = std::make_unique<RunRecord>(folder_->path(),
                                          RunRecord::Start{.name = recipe_.run.name,
                                                           .data = examples_->digests(),
                                                           .device = backend(stream_.device()).description(),
                                                           .num_ranks = comm_.size(),
                                                           .num_threads = omp_get_max_threads(),
                                                           .step = run_state_.step,
                                                           .changes = accepted_changes_});
    folder_->open();
    folder_->write_text("recipe.toml", recipe_.source);
    folder_->write_text("recipe.resolved.toml", recipe_.to_toml());
    metrics_ = std::make_unique<MetricsLog>(folder_->path(), run_state_.step);
  });
  const bool is_own = resumption_ && checkpoints_->holds(resumption_->path);
  const std::vector<std::filesystem::path> aside =
      checkpoints_->open(is_own || !resumption_ ? run_state_.step : run_state_.step - 1);
  if (const std::optional<RunInfo> best = checkpoints_->best())
    best_loss_ = best->val_loss.value_or(best_loss_);
  for (const auto& path : aside)
    say(fmt::format("set aside a checkpoint of what the run leaves behind: {}", path.string()));
  if (!resumption_) return;
  for (const std::string& reason : resumption_->rejected) say("skipped a checkpoint: " + reason);
  say(fmt::format("resumed {} at step {}, sequence {} of epoch {}", resumption_->path.string(),
                  run_state_.step, data_state_.cursor % order_->num_samples(),
                  order_->epoch(data_state_.cursor)));
  if (const std::string note = age_note(resumption_->info, resumption_->path.string()); !note.empty())
    say(note);
  for (const std::string& rule : kept_rules_) say(rule);
  for (const std::string& change : accepted_changes_) say("changed since the checkpoint: " + change);
  saved_step_ = run_state_.step;
  // checkpoint.resume = "auto" finds neither another run's checkpoint nor best.h5.
  if (!is_own || resumption_->path.filename() == "best.h5") save();
}

void Trainer::load_initial_weights() {
  if (recipe_.checkpoint.init.empty()) return;
  agree(comm_, [&] {
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
    const std::string difference =
        held_out_difference(reader->source(), read_run_info(*reader).trained_on, examples_->digests());
    if (!difference.empty()) initial_weights_ += "\nnote: " + difference;
  });
}

void Trainer::say(std::string_view line) {
  if (folder_) folder_->say(line);
}

void Trainer::announce() {
  say(fmt::format("headway {}: {} parameters, {} layers of {} attention", recipe_.run.name,
                  format_count(static_cast<double>(model_->num_parameters())), recipe_.model.num_layers,
                  recipe_.model.attention.summary(recipe_.model.num_layers)));
  const bool is_on_cpu = stream_.device().kind == Device::Kind::cpu;
  say(fmt::format("device {}, {} rank{}, {}{}", backend(stream_.device()).description(), comm_.size(),
                  comm_.size() == 1 ? "" : "s", recipe_.train.dtype,
                  is_on_cpu ? ", " + describe_blas_core() : ""));
  say(fmt::format("data {}", examples_->description()));
  if (const std::string note = unknown_text_note(recipe_.data, *tokenizer_); !note.empty()) say(note);
  if (!initial_weights_.empty()) say(initial_weights_);
  const int64_t sharing = recipe_.train.context_parallel;
  say(fmt::format("batch {} tokens = {} {} x {} sequences x {} tokens x {} accumulated",
                  recipe_.train.batch_tokens, train_step_->groups().num_groups(),
                  sharing == 1 ? "ranks" : fmt::format("groups of {} ranks", sharing),
                  recipe_.train.micro_batch, recipe_.data.seq_len, accumulation_steps_));
}

ExitCode Trainer::run() {
  try {
    const ExitCode code = train();
    if (record_) record_->end(code, run_state_.step);
    return code;
  } catch (...) {
    const Failure failure = current_failure();
    if (record_) record_->fail(failure.code, failure.message, run_state_.step);
    throw;
  }
}

ExitCode Trainer::train() {
  open_run_folder();
  announce();
  // A request that came during the start must not wait for a step, which may take long.
  const int64_t asked_to_stop = stop_signal_received() != 0;
  if (all_reduce_values(comm_, std::span(&asked_to_stop, 1), Reduce::max)[0] != 0) {
    if (saved_step_ != run_state_.step) save();
    return stopped_on_request();
  }
  last_settled_ = Clock::now();
  std::unique_ptr<Step> previous;
  // Data that change under the run end it on all ranks: the steps so far are kept.
  const auto read_data = [&](const auto& work) {
    try {
      work();
    } catch (const DataError&) {
      if (previous) settle(*previous, true);
      if (saved_step_ != run_state_.step) save();
      throw;
    }
  };
  std::optional<KernelChoices> choices(std::in_place);  // of the first step, whose shapes are those of all
  while (run_state_.step < last_step()) {
    std::unique_ptr<Step> step;
    read_data([&] { step = start_step(); });
    if (choices && !choices->summary().empty()) say("attention kernels: " + choices->summary());
    choices.reset();
    const int64_t number = step->inputs.step;
    if (previous) settle(*previous, false);
    previous.reset();
    // Whoever asks for a stop does not wait for the last evaluation, which may be long: resuming makes it.
    const bool evaluates = number == last_step()
                               ? !step->stop_requested
                               : recipe_.eval.every_steps > 0 && number % recipe_.eval.every_steps == 0;
    const bool saves = number == last_step() || step->save_due || step->stop_requested;
    // A GPU goes on with the next step meanwhile, unless this one's end is looked at. Ranks must do the same.
    if (!evaluates && !saves && stream_.device().kind == Device::Kind::cuda) {
      previous = std::move(step);
      continue;
    }
    settle(*step, true);
    if (evaluates) read_data([&] { validate(); });
    if (step->write_failed) end_with_write_failure();
    if (saves) save();
    last_settled_ = Clock::now();
    if (step->stop_requested) return stopped_on_request();
  }
  if (saved_step_ != run_state_.step) save();
  const auto check_writes = [&] { HEADWAY_CHECK(write_failure_.empty(), IoError, write_failure_); };
  agree(comm_, check_writes);
  if (!is_validated()) validate();
  agree(comm_, check_writes);
  write_sample();
  return ExitCode::ok;
}

ExitCode Trainer::stopped_on_request() {
  // The checkpoint is there, but a row of metrics that was lost must not pass for a normal stop.
  agree(comm_, [&] { HEADWAY_CHECK(write_failure_.empty(), IoError, write_failure_); });
  say(fmt::format("stopped on request at step {}; run the same command with checkpoint.resume=auto to go on",
                  run_state_.step));
  return ExitCode::stopped_on_request;
}

std::unique_ptr<Trainer::Step> Trainer::start_step() {
  auto step = std::make_unique<Step>();
  step->first_sample = data_state_.cursor;
  step->tokens_before = run_state_.tokens;
  const int64_t number = run_state_.step + 1;
  const bool logs_attention = recipe_.log.attention_every > 0 && number % recipe_.log.attention_every == 0;
  step->logs = number % recipe_.log.every_steps == 0 || number == last_step() || logs_attention;
  step->row.add("step", static_cast<double>(number));

  const auto start = Clock::now();
  std::vector<Batch> batches = next_batches();
  step->data_ms = milliseconds_since(start);
  const Agreed agreed = agree_on(batches);
  step->stop_requested = agreed.stop_requested;
  step->save_due = agreed.save_due;
  step->write_failed = agreed.write_failed;
  step->inputs = {.step = number,
                  .learning_rate = recipe_.optim.lr * schedule_.factor(run_state_.step),
                  .num_targets = agreed.num_targets,
                  .metrics = logs_attention ? &step->row : nullptr};
  step->pending = train_step_->run(std::move(batches), step->inputs);

  ++run_state_.step;
  run_state_.tokens += agreed.num_targets;
  data_state_.cursor += samples_per_step();
  return step;
}

std::vector<Batch> Trainer::next_batches() {
  const RankGroups& groups = train_step_->groups();
  const int64_t count = recipe_.train.micro_batch,
                first = data_state_.cursor + groups.group() * accumulation_steps_ * count;
  std::vector<Batch> batches;
  agree(comm_, [&] {
    for (int64_t i = 0; i < accumulation_steps_; ++i)
      batches.push_back(training_batch(*examples_, *order_, {first + i * count, count}, recipe_.data.seq_len,
                                       groups.split(), stream_));
  });
  return batches;
}

Trainer::Agreed Trainer::agree_on(const std::vector<Batch>& batches) {
  int64_t num_targets = 0;
  for (const Batch& batch : batches) num_targets += batch.num_targets;
  const double seconds = milliseconds_since(last_save_) / 1e3;
  // The clock of rank 0 decides when a checkpoint is due.
  const bool due_by_time =
      is_main() && recipe_.checkpoint.every_seconds > 0 && seconds >= recipe_.checkpoint.every_seconds;
  const std::array<int64_t, 4> local{num_targets, stop_signal_received() != 0, due_by_time,
                                     !write_failure_.empty()};
  const std::vector<int64_t> all = all_reduce_values(comm_, local, Reduce::sum);
  const int64_t number = run_state_.step + 1;
  return {.num_targets = all[0],
          .stop_requested = all[1] > 0,
          .save_due = all[2] > 0 || all[3] > 0 ||
                      (recipe_.checkpoint.every_steps > 0 && number % recipe_.checkpoint.every_steps == 0),
          .write_failed = all[3] > 0};
}

void Trainer::settle(const Step& step, bool is_newest) {
  const StepNumbers numbers = step.pending.wait();
  const double seconds = milliseconds_since(std::exchange(last_settled_, Clock::now())) / 1e3;
  // The first steps are slow (memory is touched for the first time); the mean forgets them.
  seconds_per_step_ = seconds_per_step_ == 0 ? seconds : 0.9 * seconds_per_step_ + 0.1 * seconds;
  skipped_in_a_row_ = numbers.is_good ? 0 : skipped_in_a_row_ + 1;
  run_state_.health.add(numbers.loss, numbers.grad_norm);
  if (!numbers.is_good) report_bad(step, numbers, is_newest);
  // The first step shows at once how fast the run is, and that it does run.
  if (step.logs || !has_shown_progress_) log(step, numbers, seconds);
  has_shown_progress_ = true;
}

void Trainer::report_bad(const Step& step, const StepNumbers& numbers, bool is_newest) {
  const bool gives_up =
      recipe_.train.on_nonfinite == "stop" || skipped_in_a_row_ >= recipe_.train.max_skipped;
  // The gradients may be a later step's by now. Where the run ends here, none has updated the model since.
  std::string where;
  if (gives_up || is_newest) where = train_step_->find_bad_gradient(step.pending.batches(), step.inputs);
  const std::string message =
      fmt::format("step {}: loss {} and gradient norm {} are not finite{}; the first sample of rank 0 was {}",
                  step.inputs.step, numbers.loss, numbers.grad_norm,
                  where.empty() ? "" : fmt::format(" (first in the gradient of {})", where),
                  step.pending.batches().front().sample_ids.front());
  if (!gives_up) {
    ++run_state_.skipped;
    say(message + "; the update is skipped");
    return;
  }
  // The last good state: nothing has been updated since.
  run_state_.step = step.inputs.step - 1;
  run_state_.tokens = step.tokens_before;
  data_state_.cursor = step.first_sample;
  train_step_->optimizer().gather_moments(stream_);
  std::string kept;
  try {
    kept = checkpoints_->save_not_finite(states(), run_info()).path.string() +
           " keeps the state before that step";
  } catch (const IoError& error) {
    kept = fmt::format("the state before that step could not be saved: {}", error.what());
  }
  throw NumericError(fmt::format(
      "{}; {}, and a run goes on from the checkpoint before it, so that another learning rate can help",
      message, kept));
}

void Trainer::log(const Step& step, const StepNumbers& numbers, double step_seconds) {
  if (!is_main()) return;
  const auto tokens = static_cast<double>(recipe_.train.batch_tokens);
  const double tokens_per_second = tokens / step_seconds;
  const double clip = recipe_.train.grad_clip;
  MetricRow row = step.row;
  const auto tokens_after = static_cast<double>(step.tokens_before + step.inputs.num_targets);
  row.add("tokens", tokens_after);
  row.add("train/loss", numbers.loss);
  row.add("train/ppl", std::exp(numbers.loss));
  for (const auto& [name, value] : numbers.auxiliary) row.add("train/" + name, value);
  row.add("train/grad_norm", numbers.grad_norm);
  row.add("train/clipped", clip > 0 && numbers.grad_norm > clip ? 1 : 0);
  row.add("train/skipped_total", static_cast<double>(run_state_.skipped));
  row.add("train/loss_spikes_total", static_cast<double>(run_state_.health.loss_spikes()));
  row.add("train/grad_norm_outliers_6mad_total", static_cast<double>(run_state_.health.outliers_6mad()));
  row.add("train/grad_norm_outliers_9mad_total", static_cast<double>(run_state_.health.outliers_9mad()));
  row.add("optim/lr", step.inputs.learning_rate);
  row.add("perf/tokens_per_s", tokens_per_second);
  row.add("perf/step_ms", step_seconds * 1e3);
  row.add("perf/data_ms", step.data_ms);
  row.add("perf/comm_ms", step.pending.finish_ms());
  row.add("mem/peak_gib", peak_memory_gib(stream_.device()));
  row.add("mem/saved_mib", static_cast<double>(train_step_->saved_bytes()) * 0x1p-20);
  row.add("progress/tokens", tokens_after);
  row.add("progress/epoch", static_cast<double>(step.first_sample + samples_per_step()) /
                                static_cast<double>(order_->num_samples()));
  if (step.logs) keep_write_failure([&] { metrics_->write(row); });
  std::string auxiliary;
  for (const auto& [name, value] : numbers.auxiliary) auxiliary += fmt::format(" | {} {:.4f}", name, value);
  say(progress_line(
          {.step = step.inputs.step,
           .last_step = last_step(),
           .loss = numbers.loss,
           .learning_rate = step.inputs.learning_rate,
           .grad_norm = numbers.grad_norm,
           .tokens_per_second = tokens_per_second,
           .peak_memory_gib = peak_memory_gib(stream_.device()),
           .seconds_left = seconds_per_step_ * static_cast<double>(last_step() - step.inputs.step)}) +
      auxiliary);
}

Evaluation Trainer::measure(int64_t tokens) {
  return evaluate(*model_, *examples_, {.tokens = tokens, .seq_len = recipe_.data.seq_len}, comm_, stream_);
}

void Trainer::validate() {
  const int64_t num_examples = examples_->num_examples(Split::validation);
  if (num_examples == 0) return;
  const EvalRecipe& eval = recipe_.eval;
  const int64_t tokens = run_state_.step == last_step() ? eval.final_tokens : eval.tokens;
  const Evaluation evaluation = measure(tokens);
  log(evaluation);
  if (!recipe_.checkpoint.keep_best) return;
  const auto num_evaluated = [&](int64_t limit) {
    return evaluated_examples(num_examples, {.tokens = limit, .seq_len = recipe_.data.seq_len}).size();
  };
  const bool is_comparable = num_evaluated(tokens) == num_evaluated(eval.tokens);
  keep_if_best(is_comparable ? evaluation.loss : measure(eval.tokens).loss);
}

bool Trainer::is_validated() {
  const std::array<int64_t, 1> step{is_main() ? metrics_->last_step_with("val/loss") : -1};
  return all_reduce_values(comm_, step, Reduce::max)[0] == run_state_.step;
}

void Trainer::log(const Evaluation& evaluation) {
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
  keep_write_failure([&] {
    metrics_->write(row);
    metrics_->write_csv();
  });
  say(fmt::format(
      "step {}/{} | val loss {:.4f} | ppl {:.3f}{}{} | {} tokens", run_state_.step, last_step(),
      evaluation.loss, std::exp(evaluation.loss),
      evaluation.bits_per_byte > 0 ? fmt::format(" | {:.3f} bits per byte", evaluation.bits_per_byte) : "",
      examples_->asks_questions() ? fmt::format(" | accuracy {:.4f}", evaluation.accuracy) : "",
      format_count(static_cast<double>(evaluation.num_tokens))));
}

void Trainer::keep_write_failure(const std::function<void()>& write) {
  try {
    write();
  } catch (const IoError& error) {
    if (write_failure_.empty()) write_failure_ = error.what();
  }
}

void Trainer::end_with_write_failure() {
  std::string more;
  try {
    save();
  } catch (const IoError& error) {
    more = fmt::format("; nor could a checkpoint be saved: {}", error.what());
  }
  agree(comm_, [&] { HEADWAY_CHECK(write_failure_.empty(), IoError, write_failure_ + more); });
}

RunInfo Trainer::run_info() {
  RunInfo info{.step = run_state_.step,
               .tokens = run_state_.tokens,
               .recipe = recipe_.to_toml(),
               .environment = {},
               .trained_on = examples_->digests()};
  info.environment = {.world_size = comm_.size(),
                      .threads = omp_get_max_threads(),
                      .is_deterministic = recipe_.run.deterministic,
                      .device = stream_.device().to_string(),
                      .dtype = recipe_.train.dtype,
                      .libraries = ""};
  return info;
}

void Trainer::save() {
  train_step_->optimizer().gather_moments(stream_);
  const SaveReport report = checkpoints_->save(states(), run_info());
  train_step_->optimizer().keep_own_moments(stream_);
  saved_step_ = run_state_.step;
  last_save_ = Clock::now();
  if (is_main()) keep_write_failure([&] { metrics_->write_csv(); });
  say(report);
}

void Trainer::keep_if_best(double val_loss) {
  if (!(val_loss < best_loss_)) return;
  RunInfo info = run_info();
  info.val_loss = val_loss;
  train_step_->optimizer().gather_moments(stream_);
  const SaveReport report = checkpoints_->save_best(states(), info);
  train_step_->optimizer().keep_own_moments(stream_);
  best_loss_ = val_loss;
  say(report);
}

void Trainer::say(const SaveReport& report) {
  for (const std::string& warning : report.warnings) say(warning);
  say(fmt::format("saved {} ({:.1f} MiB in {:.2f} s)", report.path.string(),
                  static_cast<double>(report.bytes) * 0x1p-20, report.seconds));
}

void Trainer::write_sample() {
  if (!is_main() || recipe_.generate.tokens == 0 || examples_->asks_questions()) return;
  const GeneratedText sample =
      generate(*model_, *tokenizer_, sample_, static_cast<uint64_t>(recipe_.run.seed), stream_, nullptr);
  folder_->write_text(fmt::format("samples/step-{:08}.txt", run_state_.step), sample_.prompt + sample.text);
  say("sample:\n" + sample_.prompt + sample.text);
  if (sample.ended_at_last_position)
    say(fmt::format("the sample ends at the last of the model's {} positions", recipe_.model.max_seq_len));
}

}  // namespace headway
