// The training loop.
#pragma once

#include <chrono>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/comm/communicator.h"
#include "core/error.h"
#include "layers/model.h"
#include "trainers/checkpoint_folder.h"
#include "trainers/data/batch.h"
#include "trainers/evaluator.h"
#include "trainers/metrics.h"
#include "trainers/recipe.h"
#include "trainers/run_folder.h"
#include "trainers/run_record.h"
#include "trainers/schedule.h"
#include "trainers/states.h"
#include "trainers/train_step.h"

namespace headway {

class Trainer {
 public:
  /// Opens the data, builds the model and, where the recipe says so, continues from a checkpoint. The
  /// recipe's zeros that stand for derived values are replaced. Collective: an error on one rank is thrown on
  /// all.
  Trainer(const Recipe&, Communicator&, Stream&);

  /// Trains to the last step and leaves a record of how it ended. stopped_on_request: a signal came and a
  /// checkpoint was saved.
  ExitCode run();

 private:
  using Clock = std::chrono::steady_clock;

  /// A step whose numbers are still to come, and where the run was before it.
  struct Step {
    StepInputs inputs;
    TrainStep::Pending pending;
    int64_t first_sample = 0;  // of all ranks, in the training order
    int64_t tokens_before = 0;
    MetricRow row;  // of the layers
    bool logs = false;
    bool stop_requested = false, save_due = false, write_failed = false;
    double data_ms = 0;
  };
  /// What the ranks tell each other before a step.
  struct Agreed {
    int64_t num_targets = 0;
    bool stop_requested = false, save_due = false, write_failed = false;
  };

  ExitCode train();
  /// Not collective: call it inside agree().
  void open_data();
  /// What the sample at the end continues: generate.prompt, or the first token of the text where tokens are
  /// ids and the prompt is none.
  void choose_prompt();
  ExitCode stopped_on_request();
  void take_run_folder();
  void resume();
  /// Why the run must not go on from a checkpoint: the recipe or the data differ.
  std::string objection_to(ArchiveReader&, const RunInfo&);
  void open_run_folder();
  void announce();
  void load_initial_weights();
  std::unique_ptr<Step> start_step();
  std::vector<Batch> next_batches();
  int64_t samples_per_step() const {
    return accumulation_steps_ * recipe_.train.micro_batch * train_step_->groups().num_groups();
  }
  Agreed agree_on(const std::vector<Batch>&);
  /// Waits for a step's numbers, and logs them; `is_newest`: no step has been started after it.
  void settle(const Step&, bool is_newest);
  void report_bad(const Step&, const StepNumbers&, bool is_newest);
  void log(const Step&, const StepNumbers&, double step_seconds);
  /// Over eval.tokens or, at the end, eval.final_tokens.
  void validate();
  /// Collective, as metrics.jsonl of rank 0 has it.
  bool is_validated();
  Evaluation measure(int64_t tokens);
  void log(const Evaluation&);
  /// Over eval.tokens, so that all are judged by the same sequences.
  void keep_if_best(double val_loss);
  void save();
  void say(const SaveReport&);
  RunInfo run_info();
  /// Keeps the failure of a write of metrics: it must not cost the steps since the last checkpoint, so all
  /// ranks save before they end with it.
  void keep_write_failure(const std::function<void()>& write);
  void end_with_write_failure();
  void write_sample();
  void say(std::string_view line);
  bool is_main() const { return comm_.rank() == 0; }
  int64_t last_step() const;
  std::vector<NamedState> states();

  Recipe recipe_;
  Communicator& comm_;
  Stream& stream_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::shared_ptr<const TextDocuments> documents_;  // of data.text
  std::unique_ptr<ExampleSource> examples_;
  std::optional<SampleOrder> order_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<TrainStep> train_step_;
  Schedule schedule_;
  int64_t accumulation_steps_ = 1;
  std::string initial_weights_;  // what they were loaded from; empty where random

  std::unique_ptr<ModelState> model_state_;
  std::unique_ptr<TokenizerState> tokenizer_state_;
  RunState run_state_;
  DataState data_state_;
  int64_t skipped_in_a_row_ = 0;

  std::unique_ptr<RunFolder> folder_;    // rank 0
  std::unique_ptr<MetricsLog> metrics_;  // rank 0
  std::unique_ptr<RunRecord> record_;    // rank 0
  std::string write_failure_;            // rank 0: empty where there was none
  std::unique_ptr<CheckpointFolder> checkpoints_;
  std::optional<Resumption> resumption_;       // where the run goes on
  std::vector<std::string> accepted_changes_;  // of its recipe since then
  std::vector<std::string> kept_rules_;        // of its data, which the recipe leaves out
  int64_t saved_step_ = -1;
  double best_loss_ = std::numeric_limits<double>::infinity();  // of best.h5
  GenerateRecipe sample_;                                       // at the end
  bool has_shown_progress_ = false;
  Clock::time_point last_save_ = Clock::now();
  Clock::time_point last_settled_ = Clock::now();
  double seconds_per_step_ = 0;  // running mean, for the time left
};

}  // namespace headway
