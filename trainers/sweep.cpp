#include "trainers/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "core/error.h"
#include "layers/attention/attention_layer.h"
#include "trainers/config/settings.h"
#include "trainers/recipe.h"
#include "trainers/run_record.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMostArms = 10'000;

std::string value_text(const Setting& setting) {
  if (setting.kind != Setting::Kind::list) return setting.text;
  std::string text;
  for (const Setting& item : setting.items) text += (text.empty() ? "" : ", ") + item.text;
  return "[" + text + "]";
}

Setting text_setting(std::string text) {
  return {.kind = Setting::Kind::string, .text = std::move(text), .items = {}, .origin = "sweep"};
}

/// As a part of a folder's name.
std::string safe(std::string text) {
  for (char& c : text)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_') c = '_';
  return text;
}

bool take_prefix(std::string_view& key, std::string_view prefix) {
  if (!key.starts_with(prefix)) return false;
  key.remove_prefix(prefix.size());
  return true;
}

struct RunTable {
  std::string name;
  std::string origin;
  uint64_t place = 0;  // of its first key
  Setting recipe;
  Settings overrides;
};

/// The tables of a sweep file.
struct SweepTables {
  Settings common;
  std::vector<RunTable> runs;  // as they follow each other in the file
  Settings grid;
  Setting baseline;
};

std::string meaningless(const std::string& origin, std::string_view key) {
  return fmt::format(
      "{}: {} means nothing in a sweep: expected name, folder, baseline, set.<key>, grid.<key>, kinds.<key>, "
      "runs.<name>.recipe or runs.<name>.<key>",
      origin, key);
}

const std::string& text_of(std::string_view key, const Setting& setting) {
  HEADWAY_CHECK(setting.kind == Setting::Kind::string && !setting.text.empty(), ConfigError,
                fmt::format("{}: {} = {}: expected a text in quotes", setting.origin, key, setting.shown()));
  return setting.text;
}

/// The sweep names its runs, and starts or resumes them, itself.
void check_may_be_set(std::string_view key, const Setting& setting) {
  constexpr std::string_view kOwn[] = {"run.name", "run.folder", "run.force_new", "checkpoint.resume"};
  HEADWAY_CHECK(
      std::ranges::find(kOwn, key) == std::end(kOwn), ConfigError,
      fmt::format("{}: {} = {}: expected no such key in a sweep, which sets it for every run itself",
                  setting.origin, key, setting.shown()));
}

/// A key of the grid replaces the same key of [set] or of a run, which would then be ignored.
void check_not_in_grid(const Settings& settings, const Settings& grid) {
  for (const auto& [key, setting] : settings)
    if (const auto axis = grid.find(key); axis != grid.end())
      throw ConfigError(fmt::format("{}: {} = {} is also in the grid ({}): expected it in one of them",
                                    setting.origin, key, setting.shown(), axis->second.origin));
}

/// "{kind}" in a text, or in the texts of a list, becomes the kind.
Setting of_kind(Setting setting, const std::string& kind) {
  constexpr std::string_view kPlaceholder = "{kind}";
  for (size_t at; (at = setting.text.find(kPlaceholder)) != std::string::npos;)
    setting.text.replace(at, kPlaceholder.size(), kind);
  for (Setting& item : setting.items) item = of_kind(item, kind);
  return setting;
}

/// Puts a recipe key, or the recipe itself, into a run's table.
void set_key(RunTable& run, const std::string& full_key, std::string_view key, const Setting& setting) {
  if (run.origin.empty()) run.origin = setting.origin;
  run.place = run.place == 0 ? setting.place : std::min(run.place, setting.place);
  if (key == "recipe") {
    text_of(full_key, setting);
    run.recipe = setting;
  } else {
    check_may_be_set(key, setting);
    run.overrides[std::string(key)] = setting;
  }
}

/// A run of every kind of attention, where there is a table [kinds]. What [runs.<kind>] says of one counts.
void add_kinds(const RunTable& kinds, std::map<std::string, RunTable>& runs) {
  if (kinds.origin.empty()) return;
  for (const AttentionVariant* variant : all_attention()) {
    const std::string kind(variant->name);
    RunTable& run = runs[kind];
    if (run.origin.empty()) run.origin = kinds.origin;
    run.place = kinds.place;
    if (run.recipe.text.empty()) run.recipe = of_kind(kinds.recipe, kind);
    for (const auto& [key, setting] : kinds.overrides) run.overrides.try_emplace(key, of_kind(setting, kind));
  }
}

/// Puts name and folder into the sweep.
SweepTables read_tables(const fs::path& path, Sweep& sweep) {
  SweepTables tables;
  std::map<std::string, RunTable> runs;
  RunTable kinds;
  Settings empty_tables;
  for (const auto& [full_key, setting] : read_toml(path, &empty_tables)) {
    std::string_view key = full_key;
    if (key == "name") {
      sweep.name = text_of(key, setting);
      check_folder_name(setting.origin + ": name", sweep.name);
    } else if (key == "folder") {
      sweep.folder = text_of(key, setting);
    } else if (key == "baseline") {
      text_of(key, setting);
      tables.baseline = setting;
    } else if (take_prefix(key, "set.")) {
      check_may_be_set(key, setting);
      tables.common[std::string(key)] = setting;
    } else if (take_prefix(key, "grid.")) {
      HEADWAY_CHECK(setting.kind == Setting::Kind::list && !setting.items.empty(), ConfigError,
                    fmt::format("{}: {} = {}: expected a list of one or more values", setting.origin,
                                full_key, setting.shown()));
      check_may_be_set(key, setting);
      tables.grid[std::string(key)] = setting;
    } else if (take_prefix(key, "kinds.")) {
      set_key(kinds, full_key, key, setting);
    } else if (take_prefix(key, "runs.") && key.find('.') != std::string_view::npos) {
      const std::string name(key.substr(0, key.find('.')));
      key.remove_prefix(name.size() + 1);
      set_key(runs[name], full_key, key, setting);
    } else {
      throw ConfigError(meaningless(setting.origin, full_key));
    }
  }
  for (const auto& [full_key, table] : empty_tables) {
    std::string_view key = full_key;
    if (key == "set" || key == "grid" || key == "runs") continue;  // as good as absent
    HEADWAY_CHECK(key.starts_with("set.") || key.starts_with("grid.") || key.starts_with("runs.") ||
                      key == "kinds" || key.starts_with("kinds."),
                  ConfigError, meaningless(table.origin, key));
    const bool is_run = take_prefix(key, "runs.") && key.find('.') == std::string_view::npos;
    HEADWAY_CHECK(is_run, ConfigError,
                  fmt::format("{}: {} is empty: expected keys in it", table.origin, full_key));
    runs[std::string(key)].origin = table.origin;  // load_sweep misses its recipe
  }
  add_kinds(kinds, runs);
  for (auto& [name, run] : runs) {
    run.name = name;
    tables.runs.push_back(std::move(run));
  }
  std::ranges::stable_sort(tables.runs, {}, &RunTable::place);
  return tables;
}

void add_value(Arm& arm, const std::string& key, const Setting& value) {
  arm.overrides[key] = value;
  const std::string part = "-" + safe(key.substr(key.rfind('.') + 1)) + safe(value_text(value));
  arm.name += part;
  if (key != "run.seed") arm.group += part;
}

/// One run with every combination of the grid.
std::vector<Arm> arms_of(const std::string& name, const fs::path& recipe, const Settings& overrides,
                         const Settings& grid) {
  std::vector<Arm> arms{
      {.name = safe(name), .run = safe(name), .group = safe(name), .recipe = recipe, .overrides = overrides}};
  for (const auto& [key, axis] : grid) {
    std::vector<Arm> longer;
    for (const Arm& arm : arms)
      for (const Setting& value : axis.items) add_value(longer.emplace_back(arm), key, value);
    arms = std::move(longer);
  }
  return arms;
}

/// What is wrong with the recipe of an arm, without what is wrong with earlier ones too: a mistake shows
/// before the first hour, and all of them at once.
void add_complaints(const fs::path& recipe, const Settings& overrides, std::vector<std::string>& complaints) {
  try {
    load_recipe(recipe, overrides);
  } catch (const ConfigError& error) {
    std::istringstream lines(error.what());
    for (std::string line; std::getline(lines, line);)
      if (std::ranges::find(complaints, line) == complaints.end()) complaints.push_back(line);
  }
}

std::string baseline_of(const SweepTables& tables) {
  const Setting& baseline = tables.baseline;
  if (baseline.text.empty()) return safe(tables.runs[0].name);
  std::vector<std::string> names;
  for (const RunTable& run : tables.runs) names.push_back(run.name);
  HEADWAY_CHECK(std::ranges::find(names, baseline.text) != names.end(), ConfigError,
                fmt::format("{}: baseline = {}: expected the name of a run, one of {}", baseline.origin,
                            baseline.shown(), fmt::join(names, ", ")));
  return safe(baseline.text);
}

}  // namespace

Sweep load_sweep(const fs::path& path) {
  HEADWAY_CHECK(fs::is_regular_file(path), ConfigError, fmt::format("there is no sweep {}", path.string()));
  Sweep sweep{.name = path.stem().string(), .folder = "sweeps", .baseline = "", .arms = {}};
  const SweepTables tables = read_tables(path, sweep);
  HEADWAY_CHECK(
      !tables.runs.empty(), ConfigError,
      fmt::format("{} has no runs: expected a table such as [runs.softmax] with a recipe", path.string()));
  sweep.folder /= sweep.name;
  check_not_in_grid(tables.common, tables.grid);

  int64_t num_arms = std::ssize(tables.runs);
  for (const auto& [key, axis] : tables.grid) {
    num_arms *= std::ssize(axis.items);
    HEADWAY_CHECK(num_arms <= kMostArms, ConfigError,
                  fmt::format("{}: the grid makes more than {} arms of {} runs: expected fewer values",
                              axis.origin, kMostArms, tables.runs.size()));
  }
  std::vector<std::string> complaints;
  std::set<std::string> names;
  for (const RunTable& run : tables.runs) {
    const std::string& name = run.name;
    HEADWAY_CHECK(!name.empty(), ConfigError,
                  fmt::format("{}: a run has no name: expected a table such as [runs.softmax]", run.origin));
    HEADWAY_CHECK(
        !run.recipe.text.empty(), ConfigError,
        fmt::format("{}: runs.{} has no recipe: expected recipe = \"<path>\", relative to this file",
                    run.origin, name));
    const fs::path recipe = path.parent_path() / run.recipe.text;
    HEADWAY_CHECK(fs::is_regular_file(recipe), ConfigError,
                  fmt::format("{}: runs.{}.recipe = {}: there is no file {}", run.recipe.origin, name,
                              run.recipe.shown(), recipe.string()));
    check_not_in_grid(run.overrides, tables.grid);
    Settings overrides = tables.common;
    for (const auto& [key, setting] : run.overrides) overrides[key] = setting;
    for (Arm& arm : arms_of(name, recipe, overrides, tables.grid)) {
      HEADWAY_CHECK(
          names.insert(arm.name).second, ConfigError,
          fmt::format("{}: two arms are called {}: expected names of runs and values in the grid that "
                      "differ in letters, digits, dots or underscores",
                      path.string(), arm.name));
      add_complaints(recipe, arm.overrides, complaints);
      arm.overrides["run.folder"] = text_setting((sweep.folder / "runs").string());
      arm.overrides["run.name"] = text_setting(arm.name);
      sweep.arms.push_back(std::move(arm));
    }
  }
  HEADWAY_CHECK(complaints.empty(), ConfigError, fmt::format("{}", fmt::join(complaints, "\n")));
  sweep.baseline = baseline_of(tables);
  return sweep;
}

std::string status_of(const Sweep& sweep, const Arm& arm) {
  return RunRecord::status_of(sweep.run_folder(arm));
}

}  // namespace headway
