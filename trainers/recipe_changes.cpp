#include "trainers/recipe_changes.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "core/error.h"
#include "trainers/config/field_reader.h"
#include "trainers/config/field_writer.h"
#include "trainers/config/unknown_key.h"

namespace headway {
namespace {

Describe fields_of(Recipe& recipe) {
  return [&recipe](FieldVisitor& v) { recipe.describe(v); };
}

constexpr std::string_view kCheckpointOrigin = "the checkpoint";

}  // namespace

ChangeRule change_rule(std::string_view key) {
  constexpr std::string_view kNever[] = {"run.seed",        "data.seq_len", "data.split",
                                         "data.split_seed", "data.windows", "train.only"};
  constexpr std::string_view kAlways[] = {
      "train.stop_step",   "train.micro_batch", "train.recompute",       "train.on_nonfinite",
      "train.max_skipped", "train.cuda_graphs", "train.shard_optimizer", "train.context_parallel"};
  if (key.starts_with("model.") || std::ranges::find(kNever, key) != std::end(kNever))
    return ChangeRule::never;
  const bool trains = key.starts_with("optim.") || key.starts_with("schedule.") || key.starts_with("train.");
  return trains && std::ranges::find(kAlways, key) == std::end(kAlways) ? ChangeRule::if_allowed
                                                                        : ChangeRule::always;
}

RecipeChanges compare_recipes(Recipe& stored, Recipe& current) {
  const auto before = field_values(fields_of(stored)), after = field_values(fields_of(current));
  std::set<std::string> keys;
  for (const auto* values : {&before, &after})
    for (const auto& [key, value] : *values) keys.insert(key);
  const auto shown = [](const std::map<std::string, std::string>& values, const std::string& key) {
    const auto found = values.find(key);
    return found == values.end() ? std::string("(absent)") : found->second;
  };
  RecipeChanges changes;
  for (const std::string& key : keys) {
    const ChangeRule rule = change_rule(key);
    const std::string old_value = shown(before, key), new_value = shown(after, key);
    if (rule == ChangeRule::always || old_value == new_value) continue;
    const std::string change = fmt::format("{}: {} -> {}", key, old_value, new_value);
    const std::vector<std::string>& allowed = current.checkpoint.allow;
    if (rule == ChangeRule::never)
      changes.refused.push_back(change + " (only a new run may have another)");
    else if (std::ranges::find(allowed, key) == allowed.end())
      changes.refused.push_back(fmt::format("{} (accepted where checkpoint.allow names it)", change));
    else
      changes.accepted.push_back(change);
  }
  return changes;
}

std::vector<std::string> keep_data_rules(const Recipe& stored, Recipe& current) {
  std::vector<std::string> kept;
  const auto keep = [&](const std::string& key, auto& value, const auto& stored_value) {
    std::string& origin = current.origins.at(key);
    // A checkpoint that was tried before this one and did not load may have given its value.
    const bool is_left_out = origin == kDefaultOrigin || origin == kCheckpointOrigin;
    if (value == stored_value || !is_left_out) return;
    value = stored_value;
    origin = kCheckpointOrigin;
    const bool is_older = stored.origins.at(key) == kSplitByRunSeed;
    kept.push_back(fmt::format("goes on with {} = {}, as the run began{}", key, value,
                               is_older ? ", when run.seed still chose what is held out" : ""));
  };
  keep("data.split", current.data.split, stored.data.split);
  keep("data.split_seed", current.data.split_seed, stored.data.split_seed);
  if (current.data.is_task())
    current.data.windows = stored.data.windows;  // tasks have none
  else
    keep("data.windows", current.data.windows, stored.data.windows);
  return kept;
}

void check_allowed_keys(Recipe& recipe) {
  if (recipe.checkpoint.allow.empty()) return;
  const std::set<std::string> keys = field_names(fields_of(recipe));
  for (const std::string& key : recipe.checkpoint.allow) {
    const std::string named = fmt::format("checkpoint.allow names {}", key);
    if (!keys.contains(key)) {
      const std::string nearest = nearest_name(key, std::vector<std::string>(keys.begin(), keys.end()));
      throw ConfigError(fmt::format("{}, which is no key of a recipe{}", named,
                                    nearest.empty() ? "" : fmt::format(": did you mean {}?", nearest)));
    }
    HEADWAY_CHECK(change_rule(key) != ChangeRule::never, ConfigError,
                  named + ", which no run may change: expected a new run, perhaps with checkpoint.init");
    HEADWAY_CHECK(change_rule(key) != ChangeRule::always, ConfigError,
                  named + ", which may change without permission: expected keys of optim, schedule or train");
  }
}

}  // namespace headway
