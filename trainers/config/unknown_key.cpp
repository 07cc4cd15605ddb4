#include "trainers/config/unknown_key.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace headway {
namespace {

// What other frameworks, and earlier versions, call our keys. They are named in messages only and never
// accepted: some mean something else there (min_lr is absolute, global_batch_size counts sequences).
struct ForeignName {
  std::string_view theirs, ours;
};
constexpr ForeignName kForeignNames[] = {
    {"learning_rate", "optim.lr"},
    {"gradient_checkpointing", "train.recompute"},
    {"activation_checkpointing", "train.recompute"},
    {"epochs", "set by train.max_tokens or train.max_steps, in tokens or optimiser steps"},
    {"num_epochs", "set by train.max_tokens or train.max_steps, in tokens or optimiser steps"},
    {"num_train_epochs", "set by train.max_tokens or train.max_steps, in tokens or optimiser steps"},
    {"max_epochs", "set by train.max_tokens or train.max_steps, in tokens or optimiser steps"},
    {"compile", "not needed: the kernels are part of the program"},
    {"max_lr", "optim.lr"},
    {"beta1", "the first of optim.betas"},
    {"beta2", "the second of optim.betas"},
    {"adam_beta1", "the first of optim.betas"},
    {"adam_beta2", "the second of optim.betas"},
    {"min_lr", "schedule.min_lr_ratio, a share of the peak rate and not a rate"},
    {"lr_min", "schedule.min_lr_ratio, a share of the peak rate"},
    {"min_lr_factor", "schedule.min_lr_ratio"},
    {"lr_min_ratio", "schedule.min_lr_ratio"},
    {"warmup", "schedule.warmup_steps"},
    {"warmup_iters", "schedule.warmup_steps"},
    {"lr_warmup_iters", "schedule.warmup_steps"},
    {"lr_warmup_steps", "schedule.warmup_steps"},
    {"decay_type", "schedule.kind"},
    {"lr_decay_style", "schedule.kind"},
    {"lr_scheduler", "schedule.kind"},
    {"global_batch_size", "train.batch_tokens, in tokens"},
    {"num_tokens_per_train_step", "train.batch_tokens"},
    {"batch_size", "train.micro_batch (sequences per rank) or train.batch_tokens (tokens of a step)"},
    {"micro_batch_size", "train.micro_batch"},
    {"local_batch_size", "train.micro_batch"},
    {"gradient_accumulation_steps", "derived from train.batch_tokens and train.micro_batch"},
    {"grad_acc_steps", "derived from train.batch_tokens and train.micro_batch"},
    {"grad_accum", "derived from train.batch_tokens and train.micro_batch"},
    {"steps", "train.max_steps"},
    {"max_iters", "train.max_steps"},
    {"train_iters", "train.max_steps"},
    {"train_samples", "train.max_tokens, in tokens"},
    {"max_norm", "train.grad_clip"},
    {"clip_grad", "train.grad_clip"},
    {"clip", "train.grad_clip"},
    {"max_grad_norm", "train.grad_clip"},
    {"precision", "train.dtype"},
    {"mixed_precision_param", "train.dtype"},
    {"block_size", "data.seq_len"},
    {"max_seq_length", "data.seq_len"},
    {"max_context_length", "data.seq_len"},
    {"context_length", "data.seq_len"},
    {"n_layer", "model.num_layers"},
    {"n_layers", "model.num_layers"},
    {"num_hidden_layers", "model.num_layers"},
    {"d_model", "model.model_dim"},
    {"dim", "model.model_dim"},
    {"n_embd", "model.model_dim"},
    {"hidden_size", "model.model_dim"},
    {"intermediate_size", "model.mlp_dim"},
    {"n_head", "model.attention.num_heads"},
    {"n_heads", "model.attention.num_heads"},
    {"num_attention_heads", "model.attention.num_heads"},
    {"n_kv_head", "model.attention.num_kv_heads"},
    {"n_kv_heads", "model.attention.num_kv_heads"},
    {"num_key_value_heads", "model.attention.num_kv_heads"},
    {"interval", "checkpoint.every_steps"},
    {"save_interval", "checkpoint.every_steps"},
    {"keep_latest_k", "checkpoint.keep_last"},
    {"eval_interval", "eval.every_steps"},
    {"eval_iters", "eval.tokens, in tokens of held-out text,"},
    {"batches", "eval.tokens, in tokens of held-out text,"},
    {"log_freq", "log.every_steps"},
    {"log_interval", "log.every_steps"},
};

std::string_view last_part(std::string_view key) {
  return key.substr(key.rfind('.') == std::string_view::npos ? 0 : key.rfind('.') + 1);
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitute = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string nearest_name(std::string_view name, std::span<const std::string> candidates) {
  // Two mistakes in a word of three letters leave another word.
  const size_t most_mistakes = name.size() < 2   ? 0
                               : name.size() < 4 ? 1
                                                 : std::max<size_t>(2, name.size() / 3);
  std::string best;
  size_t best_distance = most_mistakes + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) best_distance = distance, best = candidate;
  }
  return best;
}

std::string explain_unknown_key(std::string_view key, std::span<const std::string> known_keys) {
  constexpr size_t kLongest = 200;  // of a name that can be near to another
  if (key.size() > kLongest) return "`headway train --help-recipe` lists all keys";
  for (const std::string& known : known_keys)
    if (known.starts_with(std::string(key) + ".")) return fmt::format("{} is a section: set {}", key, known);
  const std::string_view name = last_part(key);
  std::string foreign(name);
  std::ranges::replace(foreign, '-', '_');
  for (const ForeignName& entry : kForeignNames)
    if (foreign == entry.theirs) return fmt::format("`{}` is {} here", name, entry.ours);
  std::vector<std::string> namesakes;
  for (const std::string& known : known_keys)
    if (last_part(known) == name) namesakes.push_back(known);
  std::string nearest = nearest_name(key, namesakes);
  if (nearest.empty() && !namesakes.empty())
    return fmt::format("did you mean {}?", fmt::join(namesakes, " or "));
  if (nearest.empty()) nearest = nearest_name(key, known_keys);
  if (!nearest.empty()) return fmt::format("did you mean {}?", nearest);
  // A word of another framework with a typing mistake, or one of our names in another section.
  std::vector<std::string> names;
  for (const ForeignName& entry : kForeignNames) names.emplace_back(entry.theirs);
  for (const std::string& known : known_keys) names.emplace_back(last_part(known));
  nearest = nearest_name(foreign, names);
  if (!nearest.empty()) return explain_unknown_key(nearest, known_keys);
  return "`headway train --help-recipe` lists all keys";
}

}  // namespace headway
