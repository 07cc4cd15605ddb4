#include "trainers/config/field_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "trainers/config/settings.h"

namespace headway {
namespace {

/// A file's name may hold anything; a comment ends with its line.
std::string in_one_line(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c >= 0x7f; }, '?');
  return text;
}

std::string as_toml(bool value) { return value ? "true" : "false"; }
std::string as_toml(int64_t value) { return fmt::format("{}", value); }
std::string as_toml(double value) {
  const std::string text = fmt::format("{}", value);
  // TOML floats need a point or an exponent.
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}
std::string as_toml(const std::string& value) { return toml_string(value); }
template <class T>
std::string as_toml(const std::vector<T>& values) {
  std::vector<std::string> items;
  for (const T& value : values) items.push_back(as_toml(value));
  return fmt::format("[{}]", fmt::join(items, ", "));
}

std::string type_name(bool) { return "true or false"; }
std::string type_name(int64_t) { return "integer"; }
std::string type_name(double) { return "number"; }
std::string type_name(const std::string&) { return "text"; }
template <class T>
std::string type_name(const std::vector<T>&) {
  return "list of " + type_name(T{});
}

/// Turns every typed visit into one call of field(key, info, value as TOML, type).
class TextVisitor : public FieldVisitor {
 public:
  void visit(const FieldInfo& info, bool& value) override { add(info, value); }
  void visit(const FieldInfo& info, int64_t& value) override { add(info, value); }
  void visit(const FieldInfo& info, double& value) override { add(info, value); }
  void visit(const FieldInfo& info, std::string& value) override { add(info, value); }
  void visit(const FieldInfo& info, std::vector<int64_t>& value) override { add(info, value); }
  void visit(const FieldInfo& info, std::vector<double>& value) override { add(info, value); }
  void visit(const FieldInfo& info, std::vector<std::string>& value) override { add(info, value); }
  void enter(std::string_view name, std::string_view help) override {
    path_ += (path_.empty() ? "" : ".") + std::string(name);
    table(path_, help);
  }
  void leave() override { path_.resize(path_.rfind('.') == std::string::npos ? 0 : path_.rfind('.')); }

 protected:
  virtual void table(const std::string& /*path*/, std::string_view /*help*/) {}
  virtual void field(const std::string& key, const FieldInfo&, const std::string& value,
                     const std::string& type) = 0;

 private:
  template <class T>
  void add(const FieldInfo& info, const T& value) {
    field(path_.empty() ? std::string(info.name) : path_ + "." + std::string(info.name), info, as_toml(value),
          type_name(value));
  }
  std::string path_;
};

class TomlPrinter final : public TextVisitor {
 public:
  explicit TomlPrinter(const std::map<std::string, std::string>& origins) : origins_(origins) {}
  std::string text;

 private:
  void table(const std::string& path, std::string_view) override { text += fmt::format("\n[{}]\n", path); }
  void field(const std::string& key, const FieldInfo& info, const std::string& value,
             const std::string&) override {
    const auto origin = origins_.find(key);
    text += fmt::format("{} = {}{}\n", info.name, value,
                        origin == origins_.end() ? "" : "  # " + in_one_line(origin->second));
  }
  const std::map<std::string, std::string>& origins_;
};

class HelpPrinter final : public TextVisitor {
 public:
  std::string text;

 private:
  void table(const std::string& path, std::string_view help) override {
    text += fmt::format("\n[{}]  {}\n", path, help);
  }
  void field(const std::string& key, const FieldInfo& info, const std::string& value,
             const std::string& type) override {
    text += fmt::format("  {} = {}\n      {}; {}\n", key, value, accepted(info.rule, type), info.help);
  }
  static std::string accepted(const FieldRule& rule, const std::string& type) {
    if (!rule.choices.empty()) return fmt::format("{}", fmt::join(rule.choices, ", "));
    const std::string suffixes = rule.is_count ? ", may end in K, M or B" : "";
    // Bounds that only keep the arithmetic safe tell nothing.
    constexpr double kTellingBound = 1e12;
    if (std::isinf(rule.min) && std::isinf(rule.max)) return type + suffixes;
    if (rule.max > kTellingBound) return fmt::format("{}, at least {}{}", type, rule.min, suffixes);
    return fmt::format("{}, {} to {}{}", type, rule.min, rule.max, suffixes);
  }
};

class ValueCollector final : public TextVisitor {
 public:
  std::map<std::string, std::string> values;

 private:
  void field(const std::string& key, const FieldInfo&, const std::string& value,
             const std::string&) override {
    values[key] = value;
  }
};

}  // namespace

std::string to_toml(const Describe& describe, const std::map<std::string, std::string>& origins) {
  TomlPrinter printer(origins);
  describe(printer);
  return printer.text;
}

std::string help_text(const Describe& describe) {
  HelpPrinter printer;
  describe(printer);
  return printer.text;
}

std::map<std::string, std::string> field_values(const Describe& describe) {
  ValueCollector collector;
  describe(collector);
  return std::move(collector.values);
}

std::set<std::string> field_names(const Describe& describe) {
  std::set<std::string> names;
  for (const auto& [key, value] : field_values(describe)) names.insert(key);
  return names;
}

std::string differences(const Describe& before, const Describe& after) {
  const auto a = field_values(before), b = field_values(after);
  std::string text;
  for (const auto& [key, value] : b) {
    const auto old = a.find(key);
    if (old == a.end())
      text += fmt::format("{}: (absent) -> {}\n", key, value);
    else if (old->second != value)
      text += fmt::format("{}: {} -> {}\n", key, old->second, value);
  }
  for (const auto& [key, value] : a)
    if (!b.contains(key)) text += fmt::format("{}: {} -> (absent)\n", key, value);
  return text;
}

}  // namespace headway
