#include "trainers/config/settings.h"

#include <fmt/format.h>

#include <toml++/toml.h>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t") - first + 1));
}

std::string location(const fs::path& file, const toml::source_region& region) {
  return fmt::format("{}:{}", file.string(), region.begin.line);
}

Setting from_toml(const toml::node& node, const fs::path& file, const std::string& key) {
  Setting setting;
  setting.origin = location(file, node.source());
  if (const auto* text = node.as_string()) {
    setting.kind = Setting::Kind::string;
    setting.text = text->get();
  } else if (const auto* integer = node.as_integer()) {
    setting.kind = Setting::Kind::integer;
    setting.text = fmt::format("{}", integer->get());
  } else if (const auto* number = node.as_floating_point()) {
    setting.kind = Setting::Kind::number;
    setting.text = fmt::format("{}", number->get());
  } else if (const auto* boolean = node.as_boolean()) {
    setting.kind = Setting::Kind::boolean;
    setting.text = boolean->get() ? "true" : "false";
  } else if (const auto* list = node.as_array()) {
    setting.kind = Setting::Kind::list;
    for (const toml::node& item : *list) setting.items.push_back(from_toml(item, file, key));
  } else {
    throw ConfigError(
        fmt::format("{}: {}: dates and tables inside lists have no meaning here", setting.origin, key));
  }
  return setting;
}

void flatten(const toml::table& table, const fs::path& file, const std::string& prefix, Settings& settings) {
  for (const auto& [name, node] : table) {
    const std::string key = prefix.empty() ? std::string(name.str()) : prefix + "." + std::string(name.str());
    if (const auto* inner = node.as_table())
      flatten(*inner, file, key, settings);
    else
      settings[key] = from_toml(node, file, key);
  }
}

Settings read_file(const fs::path& path, std::vector<fs::path> opened) {
  std::error_code error;
  HEADWAY_CHECK(fs::is_regular_file(path, error), ConfigError,
                fmt::format("recipe {} does not exist", path.string()));
  const fs::path canonical = fs::canonical(path);
  HEADWAY_CHECK(std::find(opened.begin(), opened.end(), canonical) == opened.end(), ConfigError,
                fmt::format("recipe {} extends itself", path.string()));
  opened.push_back(canonical);

  toml::table table;
  try {
    table = toml::parse_file(path.string());
  } catch (const toml::parse_error& failure) {
    throw ConfigError(fmt::format("{}: {}", location(path, failure.source()), failure.description()));
  }
  Settings settings;
  if (const toml::node* base = table.get("extends")) {
    HEADWAY_CHECK(
        base->is_string(), ConfigError,
        fmt::format("{}: extends must be the path of a recipe, in quotes", location(path, base->source())));
    settings = read_file(path.parent_path() / base->as_string()->get(), opened);
    table.erase("extends");
  }
  Settings own;
  flatten(table, path, "", own);
  for (auto& [key, setting] : own) settings[key] = std::move(setting);
  return settings;
}

}  // namespace

std::string Setting::shown() const {
  if (kind == Kind::string) return "\"" + text + "\"";
  if (kind != Kind::list) return text;
  std::vector<std::string> parts;
  for (const Setting& item : items) parts.push_back(item.shown());
  return fmt::format("[{}]", fmt::join(parts, ", "));
}

Settings read_toml(const fs::path& path) { return read_file(path, {}); }

Settings parse_toml(std::string_view text, const std::string& origin) {
  Settings settings;
  try {
    flatten(toml::parse(text, origin), origin, "", settings);
  } catch (const toml::parse_error& failure) {
    throw ConfigError(fmt::format("{}: {}", location(origin, failure.source()), failure.description()));
  }
  return settings;
}

void add_override(Settings& settings, std::string_view argument) {
  const size_t equals = argument.find('=');
  const size_t first = std::min(argument.find_first_not_of('-'), argument.size());
  HEADWAY_CHECK(equals != std::string_view::npos && equals > first, ConfigError,
                fmt::format("argument \"{}\" is not understood: expected section.key=value", argument));
  Setting setting;
  setting.origin = "command line";
  setting.text = trimmed(argument.substr(equals + 1));
  if (setting.text.size() >= 2 && setting.text.front() == '[' && setting.text.back() == ']') {
    setting.kind = Setting::Kind::list;
    const std::string inner = trimmed(std::string_view(setting.text).substr(1, setting.text.size() - 2));
    for (size_t begin = 0; begin < inner.size();) {
      const size_t comma = std::min(inner.find(',', begin), inner.size());
      std::string item = trimmed(std::string_view(inner).substr(begin, comma - begin));
      if (item.size() >= 2 && item.front() == '"' && item.back() == '"')
        item = item.substr(1, item.size() - 2);
      setting.items.push_back({Setting::Kind::any, item, {}, setting.origin});
      begin = comma + 1;
    }
  }
  settings[trimmed(argument.substr(first, equals - first))] = std::move(setting);
}

Settings settings_from_json(const nlohmann::json& object, std::string_view origin) {
  Settings settings;
  const auto convert = [&](const auto& self, const nlohmann::json& value) -> Setting {
    Setting setting;
    setting.origin = origin;
    if (value.is_array()) {
      setting.kind = Setting::Kind::list;
      for (const auto& item : value) setting.items.push_back(self(self, item));
      return setting;
    }
    setting.kind = value.is_boolean()          ? Setting::Kind::boolean
                   : value.is_number_integer() ? Setting::Kind::integer
                   : value.is_number()         ? Setting::Kind::number
                                               : Setting::Kind::string;
    setting.text = value.is_string() ? value.get<std::string>() : value.dump();
    return setting;
  };
  const auto flatten = [&](const auto& self, const nlohmann::json& table, const std::string& prefix) -> void {
    for (const auto& [name, value] : table.items()) {
      if (value.is_object())
        self(self, value, prefix + name + ".");
      else
        settings[prefix + name] = convert(convert, value);
    }
  };
  flatten(flatten, object, "");
  return settings;
}

}  // namespace headway
