#include "trainers/config/field_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "trainers/config/numbers.h"
#include "trainers/config/unknown_key.h"

namespace headway {
namespace {

using Kind = Setting::Kind;

std::string expected_range(const FieldRule& rule) {
  if (std::isinf(rule.min) && std::isinf(rule.max)) return "";
  if (std::isinf(rule.max)) return fmt::format(" of at least {}", rule.min);
  return fmt::format(" from {} to {}", rule.min, rule.max);
}

template <class T>
std::string expected(const FieldRule&);
template <>
std::string expected<bool>(const FieldRule&) {
  return "true or false";
}
template <>
std::string expected<int64_t>(const FieldRule& rule) {
  return "an integer" + expected_range(rule) + (rule.is_count ? ", as in 4096, 32K or 1.5M" : "");
}
template <>
std::string expected<double>(const FieldRule& rule) {
  return "a number" + expected_range(rule);
}
template <>
std::string expected<std::string>(const FieldRule& rule) {
  if (rule.choices.empty()) return "a text in quotes";
  std::vector<std::string> quoted;
  for (const auto choice : rule.choices) quoted.push_back(fmt::format("\"{}\"", choice));
  return quoted.size() == 1 ? quoted[0] : fmt::format("one of {}", fmt::join(quoted, ", "));
}

bool in_range(double value, const FieldRule& rule) { return value >= rule.min && value <= rule.max; }

std::optional<bool> convert(const Setting& s, const FieldRule&, bool) {
  if (s.kind != Kind::any && s.kind != Kind::boolean) return std::nullopt;
  if (s.text == "true") return true;
  if (s.text == "false") return false;
  return std::nullopt;
}

std::optional<int64_t> convert(const Setting& s, const FieldRule& rule, int64_t) {
  std::optional<int64_t> value;
  if (s.kind == Kind::any || s.kind == Kind::integer) value = parse_integer(s.text);
  if (!value && rule.is_count && (s.kind == Kind::any || s.kind == Kind::string)) value = parse_count(s.text);
  if (value && !in_range(static_cast<double>(*value), rule)) return std::nullopt;
  return value;
}

std::optional<double> convert(const Setting& s, const FieldRule& rule, double) {
  if (s.kind != Kind::any && s.kind != Kind::integer && s.kind != Kind::number) return std::nullopt;
  const auto value = parse_number(s.text);
  if (!value || !in_range(*value, rule)) return std::nullopt;
  return value;
}

std::optional<std::string> convert(const Setting& s, const FieldRule& rule, const std::string&) {
  if (s.kind != Kind::any && s.kind != Kind::string) return std::nullopt;
  if (!rule.choices.empty() && std::ranges::find(rule.choices, s.text) == rule.choices.end())
    return std::nullopt;
  return s.text;
}

std::string dotted(const std::vector<std::string>& path, std::string_view name) {
  std::string key;
  for (const std::string& part : path) key += part + ".";
  return key + std::string(name);
}

[[noreturn]] void refuse(const Setting& setting, const std::string& key, const std::string& expectation) {
  throw ConfigError(
      fmt::format("{}: {} = {}: expected {}", setting.origin, key, setting.shown(), expectation));
}

}  // namespace

void FieldReader::enter(std::string_view name, std::string_view) {
  // The resolved recipe could not be read again.
  const std::string key = dotted(path_, name);
  HEADWAY_CHECK(!origins_.contains(key), ConfigError,
                fmt::format("{} is a key and cannot be a table too: expected another name", key));
  path_.emplace_back(name);
}
void FieldReader::leave() { path_.pop_back(); }

const Setting* FieldReader::find(const FieldInfo& info) {
  const std::string key = dotted(path_, info.name);
  const auto found = settings_.find(key);
  origins_[key] = found == settings_.end() ? std::string(kDefaultOrigin) : found->second.origin;
  return found == settings_.end() ? nullptr : &found->second;
}

template <class T>
void FieldReader::read(const FieldInfo& info, T& value) {
  const Setting* setting = find(info);
  if (!setting) return;
  const std::optional<T> converted = convert(*setting, info.rule, value);
  if (!converted) refuse(*setting, dotted(path_, info.name), expected<T>(info.rule));
  value = *converted;
}

template <class T>
void FieldReader::read_list(const FieldInfo& info, std::vector<T>& value) {
  const Setting* setting = find(info);
  if (!setting) return;
  const std::string expectation = "a list of " + expected<T>(info.rule);
  if (setting->kind != Kind::list && setting->kind != Kind::any)
    refuse(*setting, dotted(path_, info.name), expectation);
  std::vector<T> list;
  // The command line may give a list of one without brackets.
  const std::vector<Setting> one{*setting};
  for (const Setting& item : setting->kind == Kind::list ? setting->items : one) {
    const std::optional<T> converted = convert(item, info.rule, T{});
    if (!converted) refuse(*setting, dotted(path_, info.name), expectation);
    list.push_back(*converted);
  }
  value = std::move(list);
}

void FieldReader::visit(const FieldInfo& info, bool& value) { read(info, value); }
void FieldReader::visit(const FieldInfo& info, int64_t& value) { read(info, value); }
void FieldReader::visit(const FieldInfo& info, double& value) { read(info, value); }
void FieldReader::visit(const FieldInfo& info, std::string& value) { read(info, value); }
void FieldReader::visit(const FieldInfo& info, std::vector<int64_t>& value) { read_list(info, value); }
void FieldReader::visit(const FieldInfo& info, std::vector<double>& value) { read_list(info, value); }
void FieldReader::visit(const FieldInfo& info, std::vector<std::string>& value) { read_list(info, value); }

void FieldReader::check_all_used(const UnknownKeyHint& hint) const {
  std::vector<std::string> known;
  for (const auto& [key, origin] : origins_) known.push_back(key);
  std::vector<std::string> sentences;
  for (const auto& [key, setting] : settings_) {
    if (origins_.contains(key)) continue;
    std::string why = hint ? hint(key) : "";
    if (why.empty()) why = explain_unknown_key(shortened(key), known);
    sentences.push_back(
        fmt::format("{}: unknown key {} = {}: {}", setting.origin, shortened(key), setting.shown(), why));
  }
  constexpr size_t kMost = 20;
  if (sentences.size() > kMost) {
    const size_t more = sentences.size() - kMost;
    sentences.resize(kMost);
    sentences.push_back(fmt::format("and {} more unknown keys", more));
  }
  HEADWAY_CHECK(sentences.empty(), ConfigError, fmt::format("{}", fmt::join(sentences, "\n")));
}

}  // namespace headway
