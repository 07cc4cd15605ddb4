#include "trainers/recipe.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "layers/attention/attention_layer.h"
#include "trainers/config/field_reader.h"
#include "trainers/config/field_writer.h"
#include "trainers/data/tasks/task.h"
#include "trainers/recipe_changes.h"

namespace headway {
namespace {

constexpr double kMany = 1e15;  // steps or tokens no run reaches; exact in a double

// A key of another attention kind is no typing mistake.
std::string explain_attention_key(const std::string& key, LayerAttention& attention) {
  constexpr std::string_view kPrefix = "model.attention.";
  if (!key.starts_with(kPrefix)) return "";
  const std::string table = key.substr(0, key.rfind('.')), name = key.substr(table.size() + 1);
  std::string kind;
  attention.for_each([&](const std::string& its_table, AttentionConfig& config) {
    if (its_table == table) kind = config.kind;
  });
  if (kind.empty() && kPrefix.starts_with(table))
    return "no layer of model.attention.layers is of model.attention.kind; a layer's keys stand in the table "
           "of its name";
  if (kind.empty())
    return fmt::format("neither model.attention.layers nor the members of kind parallel name \"{}\"",
                       table.substr(kPrefix.size()));
  std::vector<std::string_view> kinds;
  for (const AttentionVariant* variant : all_attention()) {
    const auto config = variant->make_config();
    if (field_names([&](FieldVisitor& v) { config->describe(v); }).contains(name))
      kinds.push_back(variant->name);
  }
  if (kinds.empty()) return "";
  return fmt::format("it belongs to {}.kind = {}, and the kind is {}", table, fmt::join(kinds, " or "), kind);
}

Recipe from_settings(const Settings& settings) {
  Recipe recipe;
  FieldReader reader(settings);
  recipe.describe(reader);
  reader.check_all_used(
      [&](const std::string& key) { return explain_attention_key(key, recipe.model.attention); });
  recipe.origins = reader.origins();
  recipe.check();
  check_allowed_keys(recipe);
  return recipe;
}

Recipe from_text(const std::string& toml, Settings settings, const std::vector<std::string>& overrides) {
  for (const std::string& argument : overrides) add_override(settings, argument);
  Recipe recipe = from_settings(settings);
  recipe.source = toml;
  return recipe;
}

/// Puts the place in front of a message that begins with a key.
template <class Work>
void with_origin(const std::map<std::string, std::string>& origins, const Work& work) {
  try {
    work();
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    const auto origin = origins.find(message.substr(0, message.find(' ')));
    if (origin == origins.end() || origin->second == kDefaultOrigin) throw;
    throw ConfigError(origin->second + ": " + message);
  }
}

}  // namespace

void RunRecipe::describe(FieldVisitor& v) {
  v("name", name, "folder of this run below run.folder: a name without slashes, neither \".\" nor \"..\"");
  v("folder", folder, "where runs are kept");
  v("seed", seed, "of initial weights, data order and dropout", {.min = 0, .max = kMany});
  v("device", device, "auto (a GPU where there is one), cpu, cuda or cuda:<index>");
  v("deterministic", deterministic,
    "equal bits from equal runs; false allows faster orders of summation on GPUs");
  v("force_new", force_new, "start over in a folder that holds a run, deleting that run");
}

void TaskRecipe::describe(FieldVisitor& v) {
  FieldRule kinds{.choices = {"none"}};
  std::string help = "a synthetic task instead of text";
  for (const Task* task : all_tasks()) {
    kinds.choices.push_back(task->name);
    help += fmt::format("; {}: {}", task->name, task->summary);
  }
  v("kind", kind, help, kinds);
  v("items", items, "pairs, tokens, digits or facts of the task", {.min = 1, .max = 1e6});
  v("vocab_size", vocab_size, "of the task's symbols", {.min = 8, .max = 1e6});
  v("gap_power", gap_power, "mqar: keys return after g slots with probability ~ (1 + g)^(gap_power - 1)",
    {.min = -10, .max = 10});
  v("random_filler", random_filler, "mqar: tokens between the questions are random, not 0");
  v("depth", depth,
    "passkey, needle: where the (first) fact stands, 0 = at the start, 1 = before the questions; -1 = "
    "anywhere",
    {.min = -1, .max = 1});
  v("examples", examples, "training examples, made when they are read", {.min = 1, .max = 16e6});
  v("val_examples", val_examples, "validation examples", {.min = 1, .max = 16e6});
}

std::unique_ptr<Tokenizer> DataRecipe::make_tokenizer() const {
  return is_task() ? make_symbol_tokenizer(static_cast<int32_t>(task.vocab_size))
                   : Tokenizer::create(tokenizer);
}

void DataRecipe::describe(FieldVisitor& v) {
  v("text", text, "files to train on, as paths with *, ? and ** (any depth); gzip and zstd are decompressed");
  v("tokens", tokens, "token shards to train on instead, as made by `headway tokenize`");
  v("tokenizer", tokenizer, "how text becomes tokens; bytes: one token per byte");
  v("val_fraction", val_fraction, "share of the documents, or of the tokens, held out for validation",
    {.min = 0, .max = 1});
  v("split", split,
    "what is held out; documents: whole files; tail: the end of the text; blocks: pieces of 65,536 tokens; "
    "auto: documents where there are enough of them, else the tail",
    {.choices = {"auto", "documents", "tail", "blocks"}});
  v("split_seed", split_seed,
    "chooses the documents or blocks that are held out, or a task's validation examples; run.seed does not",
    {.min = 0, .max = kMany});
  v("windows", windows,
    "where the text is cut into sequences; moving: elsewhere in every epoch, by run.seed; fixed: at "
    "multiples of seq_len",
    {.choices = {"moving", "fixed"}});
  v("max_bytes", max_bytes, "read at most this much text; 0 = all",
    {.min = 0, .max = kMany, .is_count = true});
  v("seq_len", seq_len, "tokens of a training sequence", {.min = 1, .max = 1e7, .is_count = true});
  v.table("task", task, "questions about symbols, with val/accuracy as the measure");
}

void OptimRecipe::describe(FieldVisitor& v) {
  v("lr", lr, "peak learning rate", {.min = 0, .max = 10});
  v("betas", betas, "decay of AdamW's two running means", {.min = 0, .max = 0.999999});
  v("eps", eps, "added to AdamW's denominator", {.min = 0, .max = 1});
  v("weight_decay", weight_decay, "decoupled, on matrices only", {.min = 0, .max = 10});
}

void ScheduleRecipe::describe(FieldVisitor& v) {
  v("kind", kind, "how the rate falls after warm-up", {.choices = {"cosine", "wsd", "linear", "constant"}});
  v("warmup_steps", warmup_steps, "steps of linear warm-up", {.min = 0, .max = kMany});
  v("min_lr_ratio", min_lr_ratio, "final rate / peak rate", {.min = 0, .max = 1});
  v("decay_fraction", decay_fraction, "wsd: share of the steps in the final decay", {.min = 0, .max = 1});
}

void TrainRecipe::describe(FieldVisitor& v) {
  v("batch_tokens", batch_tokens, "tokens of an optimiser step, over all ranks",
    {.min = 1, .max = kMany, .is_count = true});
  v("micro_batch", micro_batch,
    "sequences per rank, or group of train.context_parallel ranks, and forward pass", {.min = 1, .max = 1e6});
  v("max_steps", max_steps, "length of the run in optimiser steps; or set max_tokens",
    {.min = 0, .max = kMany});
  v("max_tokens", max_tokens, "length of the run in tokens; or set max_steps",
    {.min = 0, .max = kMany, .is_count = true});
  v("stop_step", stop_step, "end after this step, the schedule unchanged; 0 = at the end",
    {.min = 0, .max = kMany});
  v("grad_clip", grad_clip, "largest global gradient norm; 0 = no clipping", {.min = 0, .max = 1e9});
  v("dtype", dtype, "arithmetic; master weights and gradients are fp32 in both",
    {.choices = {"fp32", "bf16"}});
  v("recompute", recompute, "keep only the inputs of blocks for backward and run each forward again");
  v("only", only,
    "train only parameters whose path contains one of these texts, as in [\"query_map\"]; empty = all");
  v("on_nonfinite", on_nonfinite,
    "what to do when loss or gradients are not finite: end the run, or skip the update",
    {.choices = {"stop", "skip"}});
  v("max_skipped", max_skipped, "on_nonfinite = skip ends the run after this many skipped in a row",
    {.min = 1, .max = 1e9});
  v("cuda_graphs", cuda_graphs,
    "on a GPU, record the kernels of a micro-batch once and run them again as one: small models train "
    "faster");
  v("context_parallel", context_parallel,
    "so many ranks share each sequence, two segments of it each; for kinds of linear attention",
    {.min = 1, .max = 1e6});
  v("shard_optimizer", shard_optimizer,
    "each rank keeps AdamW's moments of its share of the parameters only (ZeRO-1): less memory, same "
    "numbers");
}

void CheckpointRecipe::describe(FieldVisitor& v) {
  v("every_steps", every_steps, "save after every so many steps; 0 = only by time and at the end",
    {.min = 0, .max = kMany});
  v("every_seconds", every_seconds, "save when this long has passed; 0 = only by steps",
    {.min = 0, .max = 1e9});
  v("keep_last", keep_last, "newest checkpoints kept", {.min = 1, .max = 1e6});
  v("keep_every", keep_every, "also keep every checkpoint whose step is a multiple of this; 0 = none",
    {.min = 0, .max = kMany});
  v("keep_best", keep_best,
    "also keep the checkpoint with the lowest validation loss over eval.tokens, as checkpoints/best.h5");
  v("resume", resume,
    "auto = from the newest valid checkpoint of this run, if any; never; or a checkpoint's path");
  v("allow", allow,
    "keys of optim, schedule and train that may differ from the checkpoint's recipe when a run goes on, as "
    "in [\"optim.lr\"]; any other difference there ends the program");
  v("init", init,
    "weights to begin a new run with: a checkpoint, weights file or run folder; parameters it lacks keep "
    "their random start, and what else it holds is left out");
}

void EvalRecipe::describe(FieldVisitor& v) {
  v("every_steps", every_steps, "measure the validation loss after every so many steps; 0 = at the end only",
    {.min = 0, .max = kMany});
  v("tokens", tokens,
    "held-out tokens that an evaluation reads, as whole sequences spread evenly over them; 0 = all",
    {.min = 0, .max = kMany, .is_count = true});
  v("final_tokens", final_tokens, "the same of a run's last evaluation, and of `headway eval`; 0 = all",
    {.min = 0, .max = kMany, .is_count = true});
}

void LogRecipe::describe(FieldVisitor& v) {
  v("every_steps", every_steps, "print and record a line after every so many steps",
    {.min = 1, .max = kMany});
  v("attention_every", attention_every, "record the attention layers' health figures; 0 = never",
    {.min = 0, .max = kMany});
}

void CommRecipe::describe(FieldVisitor& v) {
  v("timeout_s", timeout_s, "a collective that takes longer ends every rank", {.min = 1, .max = 1e6});
  v("bucket_mib", bucket_mib,
    "gradients are reduced in buckets of about this size; 0 = 32 on the CPU and 128 on GPUs",
    {.min = 0, .max = 4096});
}

void GenerateRecipe::describe(FieldVisitor& v) {
  v("prompt", prompt, "text to continue");
  v("tokens", tokens, "length of the sample written at the end of training; 0 = none",
    {.min = 0, .max = 1e6});
  v("temperature", temperature, "0 = always the likeliest token", {.min = 0, .max = 100});
  v("top_k", top_k, "draw among this many likeliest tokens; 0 = all", {.min = 0, .max = 1e9});
}

void Recipe::describe(FieldVisitor& v) {
  v.table("run", run, "name, place and randomness of the run");
  v.table("model", model, "the decoder");
  v.table("data", data, "what it reads");
  v.table("optim", optim, "AdamW");
  v.table("schedule", schedule, "learning rate over time");
  v.table("train", train, "batch, length and arithmetic");
  v.table("checkpoint", checkpoint, "saving and resuming");
  v.table("eval", eval, "validation");
  v.table("log", log, "progress and metrics");
  v.table("comm", comm, "between ranks");
  v.table("generate", generate, "the sample at the end, and `headway generate`");
}

std::string Recipe::to_toml() {
  return headway::to_toml([this](FieldVisitor& v) { describe(v); }, origins);
}

std::string Recipe::help() {
  return help_text([this](FieldVisitor& v) { describe(v); });
}

void Recipe::check() const {
  with_origin(origins, [this] {
    check_folder_name("run.name", run.name);
    HEADWAY_CHECK(optim.betas.size() == 2, ConfigError,
                  fmt::format("optim.betas = [{}]: expected two numbers", fmt::join(optim.betas, ", ")));
    HEADWAY_CHECK(data.text.empty() || data.tokens.empty(), ConfigError,
                  "data.tokens and data.text are both set: expected one of them");
    HEADWAY_CHECK(
        !data.is_task() || (data.text.empty() && data.tokens.empty()), ConfigError,
        fmt::format("data.task.kind = \"{}\" and data.text or data.tokens are both set: expected one "
                    "of them",
                    data.task.kind));
    if (data.is_task()) check_task(data);
    HEADWAY_CHECK(
        data.tokens.empty() || data.split != "documents", ConfigError,
        "data.split = \"documents\": expected auto, tail or blocks with data.tokens, since shards do not "
        "keep where documents begin");
    HEADWAY_CHECK(data.is_task() || !data.text.empty() || !data.tokens.empty(), ConfigError,
                  "data.text is empty: expected the files to train on, or token shards in data.tokens");
    HEADWAY_CHECK(
        !checkpoint.keep_best || data.is_task() || data.val_fraction > 0, ConfigError,
        "checkpoint.keep_best = true: expected held-out text to judge by, and data.val_fraction = 0");
    HEADWAY_CHECK(
        train.max_steps == 0 || train.max_tokens == 0, ConfigError,
        fmt::format("train.max_tokens = {} and train.max_steps = {} are both set: expected one of them",
                    train.max_tokens, train.max_steps));
    HEADWAY_CHECK(train.max_steps > 0 || train.max_tokens > 0, ConfigError,
                  "train.max_steps = 0: expected a length of the run, here or in train.max_tokens");
    HEADWAY_CHECK(train.max_tokens == 0 || train.max_tokens >= train.batch_tokens, ConfigError,
                  fmt::format("train.max_tokens = {}: expected at least one batch, train.batch_tokens = {}",
                              train.max_tokens, train.batch_tokens));
    HEADWAY_CHECK(schedule.warmup_steps < total_steps() || total_steps() == 1, ConfigError,
                  fmt::format("schedule.warmup_steps = {}: expected fewer than the run's {} steps",
                              schedule.warmup_steps, total_steps()));
    const int64_t num_segments = 2 * train.context_parallel,
                  below = data.seq_len / num_segments * num_segments;
    HEADWAY_CHECK(
        train.context_parallel == 1 || below == data.seq_len, ConfigError,
        fmt::format(
            "train.context_parallel = {}: expected data.seq_len = {} to be a multiple of {}, two segments "
            "for each rank, such as {}",
            train.context_parallel, data.seq_len, num_segments, below + num_segments));
    HEADWAY_CHECK(train.stop_step <= total_steps(), ConfigError,
                  fmt::format("train.stop_step = {}: expected at most the run's {} steps", train.stop_step,
                              total_steps()));
  });
}

void Recipe::check_start() const {
  const std::string& resume = checkpoint.resume;
  with_origin(origins, [&] {
    HEADWAY_CHECK(
        !run.force_new || resume == "never", ConfigError,
        fmt::format("run.force_new = true and checkpoint.resume = \"{}\" are both set: expected a run "
                    "that starts over or one that goes on",
                    resume));
    HEADWAY_CHECK(
        checkpoint.init.empty() || resume == "never" || resume == "auto", ConfigError,
        fmt::format("checkpoint.init = \"{}\" and checkpoint.resume = \"{}\" are both set: expected "
                    "weights from one of them",
                    checkpoint.init, resume));
  });
}

void Recipe::resolve(int64_t tokenizer_vocab_size) {
  const auto visit = [this](FieldVisitor& v) { describe(v); };
  const auto before = field_values(visit);
  with_origin(origins, [&] { model.resolve(tokenizer_vocab_size, data.seq_len); });
  for (const auto& [key, value] : field_values(visit))
    if (before.at(key) != value) origins[key] = "derived";
}

int64_t Recipe::total_steps() const {
  return train.max_steps > 0 ? train.max_steps : train.max_tokens / train.batch_tokens;
}

int64_t Recipe::accumulation_steps(int world_size) const {
  const int64_t num_groups = world_size / train.context_parallel,
                unit = num_groups * train.micro_batch * data.seq_len;
  with_origin(origins, [&] {
    HEADWAY_CHECK(
        num_groups * train.context_parallel == world_size, ConfigError,
        fmt::format("train.context_parallel = {}: expected a divisor of the number of ranks, which is {}",
                    train.context_parallel, world_size));
    if (train.batch_tokens % unit == 0) return;
    const int64_t below = train.batch_tokens / unit * unit;
    throw ConfigError(fmt::format(
        "train.batch_tokens = {}: expected a multiple of {} {} x train.micro_batch = {} x "
        "data.seq_len = {}, such as {}{}",
        train.batch_tokens, num_groups,
        train.context_parallel == 1 ? "ranks" : "groups of train.context_parallel ranks", train.micro_batch,
        data.seq_len, below > 0 ? fmt::format("{} or ", below) : "", below + unit));
  });
  return train.batch_tokens / unit;
}

void check_folder_name(std::string_view key, const std::string& text) {
  const std::string expected =
      fmt::format("{} = {}: expected the name of a folder, ", key, toml_string(text));
  HEADWAY_CHECK(!text.empty() && text.find('/') == std::string::npos, ConfigError,
                expected + "without slashes");
  const bool is_plain = std::ranges::none_of(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; });
  HEADWAY_CHECK(is_plain, ConfigError, expected + "without control characters");
  HEADWAY_CHECK(text != "." && text != "..", ConfigError, expected + "neither \".\" nor \"..\"");
}

Recipe load_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  Settings settings;
  for (const std::string& argument : overrides) add_override(settings, argument);
  return load_recipe(path, settings);
}

Recipe load_recipe(const std::filesystem::path& path, const Settings& overrides) {
  Settings settings = read_toml(path);
  for (const auto& [key, setting] : overrides) settings[key] = setting;
  Recipe recipe = from_settings(settings);
  recipe.check_start();
  recipe.source = read_recipe_text(path);
  return recipe;
}

Recipe parse_recipe(const std::string& toml, const std::string& origin,
                    const std::vector<std::string>& overrides) {
  return from_text(toml, parse_toml(toml, origin), overrides);
}

Recipe parse_stored_recipe(const std::string& toml, const std::string& origin,
                           const std::vector<std::string>& overrides) {
  Settings settings = parse_toml(toml, origin);
  settings.erase("eval.batches");
  settings.try_emplace("data.windows", Setting{.kind = Setting::Kind::string,
                                               .text = "fixed",
                                               .items = {},
                                               .origin = "the only way before data.windows"});
  if (const auto seed = settings.find("run.seed"); seed != settings.end()) {
    const auto [split_seed, is_older] = settings.try_emplace("data.split_seed", seed->second);
    if (is_older) split_seed->second.origin = kSplitByRunSeed;
  }
  return from_text(toml, std::move(settings), overrides);
}

}  // namespace headway
