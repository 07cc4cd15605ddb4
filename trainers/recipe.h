// The recipe of a run: every key, its type, range, default and help, listed once.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/fields.h"
#include "core/text/tokenizer.h"
#include "layers/model_config.h"
#include "trainers/config/settings.h"

namespace headway {

struct RunRecipe {
  std::string name = "run";
  std::string folder = "runs";
  int64_t seed = 1;
  std::string device = "auto";
  bool deterministic = true;
  bool force_new = false;
  void describe(FieldVisitor&);
};

struct TaskRecipe {
  std::string kind = "none";
  int64_t items = 8;
  int64_t vocab_size = 8192;
  double gap_power = 0.01;
  bool random_filler = true;
  double depth = -1;  // below 0: random
  int64_t examples = 100'000;
  int64_t val_examples = 1000;
  void describe(FieldVisitor&);
};

struct DataRecipe {
  std::vector<std::string> text;
  std::vector<std::string> tokens;
  std::string tokenizer = "bytes";
  double val_fraction = 0.05;
  std::string split = "auto";
  int64_t split_seed = 0;
  std::string windows = "moving";
  int64_t max_bytes = 0;
  int64_t seq_len = 256;
  TaskRecipe task;
  void describe(FieldVisitor&);
  bool is_task() const { return task.kind != "none"; }
  /// Of the text, or of the task's symbols.
  std::unique_ptr<Tokenizer> make_tokenizer() const;
};

struct OptimRecipe {
  double lr = 1e-3;
  std::vector<double> betas = {0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.1;
  void describe(FieldVisitor&);
};

struct ScheduleRecipe {
  std::string kind = "cosine";
  int64_t warmup_steps = 20;
  double min_lr_ratio = 0.1;
  double decay_fraction = 0.2;
  void describe(FieldVisitor&);
};

struct TrainRecipe {
  int64_t batch_tokens = 8192;
  int64_t micro_batch = 8;
  int64_t max_steps = 0;
  int64_t max_tokens = 0;
  int64_t stop_step = 0;
  double grad_clip = 1;
  std::string dtype = "fp32";
  bool recompute = false;
  std::vector<std::string> only;
  std::string on_nonfinite = "stop";
  int64_t max_skipped = 5;
  bool shard_optimizer = false;
  bool cuda_graphs = true;
  int64_t context_parallel = 1;
  void describe(FieldVisitor&);
};

struct CheckpointRecipe {
  int64_t every_steps = 0;
  double every_seconds = 300;
  int64_t keep_last = 2;
  int64_t keep_every = 0;
  bool keep_best = false;
  std::string resume = "never";
  std::vector<std::string> allow;
  std::string init;
  void describe(FieldVisitor&);
};

struct EvalRecipe {
  int64_t every_steps = 0;
  int64_t tokens = 65'536;
  int64_t final_tokens = 0;
  void describe(FieldVisitor&);
};

struct LogRecipe {
  int64_t every_steps = 10;
  int64_t attention_every = 0;
  void describe(FieldVisitor&);
};

struct CommRecipe {
  double timeout_s = 100;
  int64_t bucket_mib = 0;
  void describe(FieldVisitor&);
};

struct GenerateRecipe {
  std::string prompt = "\n";
  int64_t tokens = 300;
  double temperature = 0.8;
  int64_t top_k = 0;
  void describe(FieldVisitor&);
};

struct Recipe {
  RunRecipe run;
  ModelConfig model;
  DataRecipe data;
  OptimRecipe optim;
  ScheduleRecipe schedule;
  TrainRecipe train;
  CheckpointRecipe checkpoint;
  EvalRecipe eval;
  LogRecipe log;
  CommRecipe comm;
  GenerateRecipe generate;

  /// The recipe file as it was given, without those it extends.
  std::string source;
  /// Where each value came from: "default", "recipes/base.toml:12:1", "command line" or "derived". Filled by
  /// load_recipe.
  std::map<std::string, std::string> origins;

  void describe(FieldVisitor&);
  /// TOML that reads back equal, with the origin of each value in a comment.
  std::string to_toml();
  /// Every key with its type, range, default and help.
  std::string help();
  /// ConfigError for keys that contradict each other.
  void check() const;
  /// ConfigError where starting over, continuing and other weights are asked for together.
  void check_start() const;
  /// Replaces the model's zeros that stand for derived values. ConfigError for keys that do not fit together.
  void resolve(int64_t tokenizer_vocab_size);
  /// Optimiser steps of the whole schedule.
  int64_t total_steps() const;
  /// Micro-batches per rank and step; ConfigError with the nearest possible batch when it is not whole, or
  /// for ranks that train.context_parallel does not divide.
  int64_t accumulation_steps(int world_size) const;
  std::filesystem::path run_folder() const { return std::filesystem::path(run.folder) / run.name; }
};

/// ConfigError unless text can name a folder below another one: no slash, not "." or "..", no control
/// characters. key: for the message.
void check_folder_name(std::string_view key, const std::string& text);

/// The file's values below the overrides ("section.key=value"), all checked. ConfigError otherwise.
Recipe load_recipe(const std::filesystem::path&, const std::vector<std::string>& overrides);
Recipe load_recipe(const std::filesystem::path&, const Settings& overrides);
Recipe parse_recipe(const std::string& toml, const std::string& origin,
                    const std::vector<std::string>& overrides);
/// A recipe that a checkpoint holds. Keys that it is too old to have get the values that its run went by.
Recipe parse_stored_recipe(const std::string& toml, const std::string& origin,
                           const std::vector<std::string>& overrides);

/// Origin of data.split_seed where run.seed still decided what was held out.
inline constexpr std::string_view kSplitByRunSeed = "run.seed, which chose what was held out";

}  // namespace headway
