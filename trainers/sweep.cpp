#include "trainers/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "trainers/config/settings.h"
#include "trainers/recipe.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

std::string value_text(const Setting& setting) {
  if (setting.kind != Setting::Kind::list) return setting.text;
  std::string text;
  for (const Setting& item : setting.items) text += (text.empty() ? "" : ", ") + item.text;
  return "[" + text + "]";
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
  std::string recipe;
  std::vector<std::string> overrides;
};

struct GridAxis {
  std::string key;
  std::vector<Setting> values;
};

void add_value(Arm& arm, const std::string& key, const Setting& value) {
  const std::string text = value_text(value);
  arm.overrides.push_back(key + "=" + text);
  const std::string part = "-" + safe(key.substr(key.rfind('.') + 1)) + safe(text);
  arm.name += part;
  if (key != "run.seed") arm.group += part;
}

}  // namespace

Sweep load_sweep(const fs::path& path) {
  Sweep sweep{.name = path.stem().string(), .folder = "sweeps", .arms = {}};
  std::map<std::string, RunTable> runs;
  std::vector<std::string> common;
  std::vector<GridAxis> grid;
  for (const auto& [full_key, setting] : read_toml(path)) {
    std::string_view key = full_key;
    if (key == "name") {
      sweep.name = setting.text;
    } else if (key == "folder") {
      sweep.folder = setting.text;
    } else if (take_prefix(key, "set.")) {
      common.push_back(std::string(key) + "=" + value_text(setting));
    } else if (take_prefix(key, "grid.")) {
      HEADWAY_CHECK(
          setting.kind == Setting::Kind::list && !setting.items.empty(), ConfigError,
          fmt::format("{}: {} = {}: expected a list of values", setting.origin, full_key, setting.shown()));
      grid.push_back({std::string(key), setting.items});
    } else if (take_prefix(key, "runs.") && key.find('.') != std::string_view::npos) {
      RunTable& run = runs[std::string(key.substr(0, key.find('.')))];
      key.remove_prefix(key.find('.') + 1);
      if (key == "recipe")
        run.recipe = setting.text;
      else
        run.overrides.push_back(std::string(key) + "=" + value_text(setting));
    } else {
      throw ConfigError(
          fmt::format("{}: {} means nothing in a sweep: expected name, folder, set.<key>, grid.<key>, "
                      "runs.<name>.recipe or runs.<name>.<key>",
                      setting.origin, full_key));
    }
  }
  HEADWAY_CHECK(
      !runs.empty(), ConfigError,
      fmt::format("{} has no runs: expected a table such as [runs.softmax] with a recipe", path.string()));
  sweep.folder /= sweep.name;

  for (const auto& [name, run] : runs) {
    HEADWAY_CHECK(!run.recipe.empty(), ConfigError,
                  fmt::format("{}: runs.{} has no recipe", path.string(), name));
    Arm first{.name = safe(name),
              .group = safe(name),
              .recipe = path.parent_path() / run.recipe,
              .overrides = common};
    first.overrides.insert(first.overrides.end(), run.overrides.begin(), run.overrides.end());
    std::vector<Arm> arms{std::move(first)};
    for (const GridAxis& axis : grid) {
      std::vector<Arm> longer;
      for (const Arm& arm : arms)
        for (const Setting& value : axis.values) add_value(longer.emplace_back(arm), axis.key, value);
      arms = std::move(longer);
    }
    for (Arm& arm : arms) {
      load_recipe(arm.recipe, arm.overrides);  // a mistake shows before the first hour, not after it
      arm.overrides.push_back("run.folder=" + (sweep.folder / "runs").string());
      arm.overrides.push_back("run.name=" + arm.name);
      sweep.arms.push_back(std::move(arm));
    }
  }
  return sweep;
}

std::string status_of(const Sweep& sweep, const Arm& arm) {
  std::ifstream file(sweep.run_folder(arm) / "run.json");
  const auto record = nlohmann::json::parse(file, nullptr, false);
  return record.is_object() ? record.value("status", "") : "";
}

}  // namespace headway
