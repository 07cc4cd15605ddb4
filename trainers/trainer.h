// The training loop.
#pragma once

#include <chrono>
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
#include "trainers/grad_reducer.h"
#include "trainers/metrics.h"
#include "trainers/optimizer.h"
#include "trainers/recipe.h"
#include "trainers/run_folder.h"
#include "trainers/run_record.h"
#include "trainers/schedule.h"
#include "trainers/states.h"

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

  struct StepResult {
    double loss = 0;       // mean over the step's tokens, all ranks
    double grad_norm = 0;  // before clipping
    double learning_rate = 0;
    double data_ms = 0, comm_ms = 0;
    std::map<std::string, double> auxiliary = {};  // mean of each kind of loss that layers add, where logged
    size_t saved_bytes = 0;                        // held for backward by one micro-batch
    bool stop_requested = false;
    bool save_due = false;
    bool is_finite() const;
  };

  ExitCode train();
  void open_run_folder();
  void resume();
  void announce();
  void load_initial_weights();
  StepResult train_step(bool logs, MetricSink* metrics);
  void accumulate_gradients(const std::vector<Batch>&, double loss_scale, bool logs, MetricSink*, StepResult&,
                            double& loss);
  void agree_on(StepResult&, double local_loss);
  void update(StepResult&);
  void report_nonfinite(const StepResult&, const std::vector<int64_t>& sample_ids);
  void log(const StepResult&, MetricRow&, double step_seconds);
  void evaluate_and_log();
  void save();
  void write_sample();
  void say(std::string_view line);
  bool is_main() const { return comm_.rank() == 0; }
  int64_t last_step() const;
  std::vector<NamedState> states();

  Recipe recipe_;
  Communicator& comm_;
  Stream& stream_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ExampleSource> examples_;
  std::optional<SampleOrder> order_;
  std::unique_ptr<Model> model_;
  std::vector<Parameter*> parameters_;
  std::unique_ptr<GradReducer> reducer_;
  std::unique_ptr<AdamW> optimizer_;
  Schedule schedule_;
  Rng rng_;
  int64_t accumulation_steps_ = 1;
  std::string initial_weights_;  // where they came from, where not from chance

  std::unique_ptr<ModelState> model_state_;
  std::unique_ptr<TokenizerState> tokenizer_state_;
  RunState run_state_;
  DataState data_state_;
  int64_t skipped_in_a_row_ = 0;

  std::unique_ptr<RunFolder> folder_;    // rank 0
  std::unique_ptr<MetricsLog> metrics_;  // rank 0
  std::unique_ptr<RunRecord> record_;    // rank 0
  std::unique_ptr<CheckpointFolder> checkpoints_;
  int64_t saved_step_ = -1;
  Clock::time_point last_save_ = Clock::now();
  double checkpoint_ms_ = 0;
  double seconds_per_step_ = 0;  // running mean, for the time left
};

}  // namespace headway
