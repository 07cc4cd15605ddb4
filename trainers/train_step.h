// One update: forward and backward of every micro-batch, the sum over ranks, clipping, AdamW, running
// averages. All of it is work of the stream: run() returns while a GPU is still computing, and the numbers of
// the step arrive in host memory when it is done. Whether an update happens is decided where the gradients
// are (kernels/ops/step_control.h), so a step never waits for the one before.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/comm/communicator.h"
#include "layers/model.h"
#include "trainers/data/batch.h"
#include "trainers/grad_reducer.h"
#include "trainers/optimizer.h"
#include "trainers/rank_groups.h"
#include "trainers/recipe.h"

namespace headway {

/// What a step is told.
struct StepInputs {
  int64_t step = 1;  // number of the update, from 1
  double learning_rate = 0;
  int64_t num_targets = 0;        // of all micro-batches of all ranks
  MetricSink* metrics = nullptr;  // of the last micro-batch's layers, where they are wanted
};

/// What became of a step, the same on every rank.
struct StepNumbers {
  double loss = 0;       // mean over the step's tokens
  double grad_norm = 0;  // before clipping
  bool is_good = true;   // finite: the update has happened, unless too many before were bad
  std::map<std::string, double> auxiliary = {};  // mean of each kind of loss that layers add
};

class TrainStep {
 public:
  /// A step under way. It keeps the batches' memory.
  class Pending {
   public:
    /// Waits until the step is done.
    StepNumbers wait() const;
    const std::vector<Batch>& batches() const { return batches_; }
    /// How long the host waited for the last reductions.
    double finish_ms() const { return finish_ms_; }

   private:
    friend class TrainStep;
    std::vector<Batch> batches_;
    std::vector<std::string> auxiliary_;  // names, as their sums follow each other
    Tensor numbers_;                      // in host memory
    std::shared_ptr<Event> done_;
    double finish_ms_ = 0;
  };

  /// Gives the model's parameters the memory where their gradients collect. The model must be materialised.
  TrainStep(Model&, const Recipe&, Communicator&, Stream&);

  /// batches: this rank's micro-batches.
  Pending run(std::vector<Batch> batches, const StepInputs&);
  /// Path of a parameter whose gradient is not finite in a step over these batches, whose numbers were not
  /// good; empty where this rank finds none. Only while no later step has updated the model.
  std::string find_bad_gradient(const std::vector<Batch>& batches, const StepInputs&);

  AdamW& optimizer() { return *optimizer_; }
  const RankGroups& groups() const { return groups_; }
  /// Held for backward by one micro-batch, as of the first.
  size_t saved_bytes() const { return saved_bytes_; }

 private:
  struct Slot {
    std::string path;
    Parameter* parameter;
  };

  void collect_gradients(const std::vector<Batch>&, const StepInputs&, std::vector<std::string>& auxiliary);
  /// One micro-batch, by the graph of such micro-batches where there is one.
  void micro_step(const Batch&, const StepInputs&, int64_t index, std::vector<std::string>& auxiliary);
  /// Launches forward and backward. Returns whether random numbers were drawn.
  bool launch_micro_step(const Tensor& tokens, const Tensor& targets, const StepInputs&, int64_t index,
                         std::vector<std::string>& auxiliary);
  bool is_last(int64_t index) const { return index + 1 == recipe_.accumulation_steps(comm_.size()); }
  const Tensor& constant(double value);

  /// The recorded work of micro-batches that differ in their tokens alone.
  struct Recording {
    /// What else the work depends on.
    struct Key {
      Shape shape;
      double loss_scale = 0;
      bool is_first = false, is_last = false;  // of its step
      bool operator==(const Key&) const = default;
    };
    Key key;
    std::unique_ptr<Graph> graph = {};  // none yet: the work has run once
    Tensor tokens = {}, targets = {};   // what the graph reads
    std::vector<std::string> auxiliary = {};
    std::vector<GradBuffer*> written = {};  // once the graph has run
  };
  Recording* recording_of(const Batch&, const StepInputs&, int64_t index);

  const Recipe& recipe_;
  Communicator& comm_;
  RankGroups groups_;
  Stream& stream_;
  Model& model_;
  Rng rng_;
  std::vector<Slot> slots_;  // of parameters that are trained, in the order of declaration
  std::unique_ptr<GradReducer> reducer_;
  std::optional<AdamW> optimizer_;
  Tensor numbers_;  // f64: the step control's state, squares, loss, auxiliary losses
  std::map<double, Tensor> constants_;
  size_t saved_bytes_ = 0;
  PrivateMemory memory_;  // of micro-batches, because graphs refer to it
  std::vector<Recording> recordings_;
  bool records_ = false;
};

}  // namespace headway
