#include "trainers/config/settings.h"

#include <fmt/format.h>

#include <exception>

namespace headway {
namespace {

struct TomlParserLost : std::exception {};
[[noreturn]] void give_up_parsing() { throw TomlParserLost(); }

}  // namespace
}  // namespace headway

// toml++ asserts what it believes to have checked, and is wrong about some texts that are no TOML, such as
// [}].
#define TOML_ASSERT(condition) \
  (static_cast<bool>(condition) ? static_cast<void>(0) : ::headway::give_up_parsing())
#include <toml++/toml.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

// Far above what a recipe needs, and low enough that the parser's recursion over the parts of a key is safe.
constexpr size_t kLargestFile = 64 * 1024;
constexpr int kMostParts = 16;        // of a dotted key
constexpr size_t kShownLength = 200;  // of a key or value in a message

std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t") - first + 1));
}

std::string location(const fs::path& file, const toml::source_region& region) {
  return fmt::format("{}:{}:{}", file.string(), region.begin.line, region.begin.column);
}

Setting from_toml(const toml::node& node, const std::string& origin, const std::string& key) {
  Setting setting;
  setting.origin = origin;
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
    for (const toml::node& item : *list) setting.items.push_back(from_toml(item, origin, key));
  } else {
    throw ConfigError(fmt::format("{}: {}: dates and tables inside lists have no meaning here", origin, key));
  }
  return setting;
}

uint64_t place_of(const toml::node& node) {
  return uint64_t{node.source().begin.line} << 32 | node.source().begin.column;
}

void flatten(const toml::table& table, const fs::path& file, const std::string& prefix, int num_parts,
             Settings& settings, Settings* empty_tables) {
  for (const auto& [name, node] : table) {
    const std::string key = prefix.empty() ? std::string(name.str()) : prefix + "." + std::string(name.str());
    const std::string origin = location(file, name.source());
    HEADWAY_CHECK(num_parts < kMostParts, ConfigError,
                  fmt::format("{}: the key {} has more than {} parts", origin, shortened(key), kMostParts));
    if (const auto* inner = node.as_table()) {
      if (inner->empty() && empty_tables) (*empty_tables)[key].origin = origin;
      flatten(*inner, file, key, num_parts + 1, settings, empty_tables);
    } else {
      settings[key] = from_toml(node, origin, key);
      settings[key].place = place_of(node);
    }
  }
}

// toml++ says "expected delimiter, saw 'M'" for a count without quotes.
std::string count_hint(std::string_view text, const toml::source_region& where) {
  for (uint32_t line = 1; line < where.begin.line; ++line) {
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) return "";
    text.remove_prefix(end + 1);
  }
  text = text.substr(0, text.find('\n'));
  const size_t first = text.find_first_not_of(" \t", text.find('=') + 1);
  if (first == std::string_view::npos) return "";
  const size_t suffix = text.find_first_not_of("0123456789._", first);
  if (suffix == std::string_view::npos || suffix == first || !std::strchr("kmbKMB", text[suffix])) return "";
  return fmt::format(" (counts stand in quotes: \"{}\")", text.substr(first, suffix + 1 - first));
}

/// The last line of the shortest beginning of the text in which the parser loses its way.
int64_t line_of_stumble(std::string_view text) {
  const auto survives = [text](size_t end) {
    try {
      (void)toml::parse(text.substr(0, end));
    } catch (const toml::parse_error&) {  // cut in the middle of a value
    } catch (const TomlParserLost&) {
      return false;
    }
    return true;
  };
  std::vector<size_t> ends;
  for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n', end + 1))
    ends.push_back(end + 1);
  return std::ranges::partition_point(ends, survives) - ends.begin() + 1;
}

toml::table parse(std::string_view text, const std::string& origin) {
  try {
    return toml::parse(text, origin);
  } catch (const toml::parse_error& failure) {
    throw ConfigError(fmt::format("{}: {}{}", location(origin, failure.source()), failure.description(),
                                  count_hint(text, failure.source())));
  } catch (const TomlParserLost&) {
    throw ConfigError(fmt::format("{}:{}: this is no TOML", origin, line_of_stumble(text)));
  }
}

/// named_by: "file:line:column: " of the extends, empty for the recipe itself.
Settings read_file(const fs::path& path, const std::string& named_by, std::vector<fs::path> opened,
                   Settings* empty_tables) {
  const std::string text = read_recipe_text(path, named_by);
  const fs::path canonical = fs::canonical(path);
  HEADWAY_CHECK(std::ranges::find(opened, canonical) == opened.end(), ConfigError,
                fmt::format("{}recipe {} extends itself", named_by, path.string()));
  opened.push_back(canonical);

  Settings own;
  flatten(parse(text, path.string()), path, "", 0, own, empty_tables);

  const auto extends = own.find("extends");
  if (extends == own.end()) return own;
  const Setting base = extends->second;
  HEADWAY_CHECK(
      base.kind == Setting::Kind::string, ConfigError,
      fmt::format("{}: extends = {}: expected the path of a recipe in quotes", base.origin, base.shown()));
  own.erase(extends);
  Settings settings =
      read_file(path.parent_path() / base.text, base.origin + ": ", std::move(opened), empty_tables);
  uint64_t end = 0;
  for (const auto& [key, setting] : settings) end = std::max(end, setting.place);
  for (auto& [key, setting] : own) {
    setting.place += end;
    settings[key] = std::move(setting);
  }
  return settings;
}

/// The bytes of a valid UTF-8 sequence at the front of text; 0 when there is none.
size_t utf8_sequence(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto continues = [&](size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  if (byte(0) < 0x80) return 1;
  if (byte(0) >= 0xc2 && byte(0) <= 0xdf && continues(1)) return 2;
  if (byte(0) >= 0xe0 && byte(0) <= 0xef && continues(1) && continues(2)) {
    const bool is_overlong = byte(0) == 0xe0 && byte(1) < 0xa0,
               is_surrogate = byte(0) == 0xed && byte(1) > 0x9f;
    return is_overlong || is_surrogate ? 0 : 3;
  }
  if (byte(0) >= 0xf0 && byte(0) <= 0xf4 && continues(1) && continues(2) && continues(3)) {
    const bool is_overlong = byte(0) == 0xf0 && byte(1) < 0x90,
               is_too_large = byte(0) == 0xf4 && byte(1) > 0x8f;
    return is_overlong || is_too_large ? 0 : 4;
  }
  return 0;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t bytes = utf8_sequence(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

bool is_quoted(std::string_view text) { return text.starts_with('"') || text.starts_with('\''); }

/// One value of the command line, given between two commas of a list or after the equals sign.
Setting override_scalar(const std::string& text, std::string_view key) {
  Setting setting;
  setting.origin = kCommandLineOrigin;
  setting.text = text;
  if (!is_quoted(text)) return setting;
  try {
    const toml::table table = toml::parse("value = " + text);
    if (const auto value = table["value"].value<std::string>()) {
      setting.kind = Setting::Kind::string;
      setting.text = *value;
      return setting;
    }
  } catch (const toml::parse_error&) {
  } catch (const TomlParserLost&) {
  }
  throw ConfigError(fmt::format("{}: {} = {}: expected closed quotes and TOML's escapes between them",
                                kCommandLineOrigin, key, text));
}

/// Cuts at commas outside quotes; a comma before the end is allowed.
std::vector<std::string> split_list(std::string_view text) {
  std::vector<std::string> items;
  char quote = 0;
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (quote == '"' && text[i] == '\\')
      ++i;
    else if (quote != 0)
      quote = text[i] == quote ? '\0' : quote;
    else if (is_quoted(text.substr(i)))
      quote = text[i];
    else if (text[i] == ',')
      items.push_back(trimmed(text.substr(begin, i - begin))), begin = i + 1;
  }
  if (const std::string last = trimmed(text.substr(begin)); !last.empty()) items.push_back(last);
  return items;
}

}  // namespace

std::string shortened(std::string_view text) {
  if (text.size() <= kShownLength) return std::string(text);
  size_t end = kShownLength;
  // A character of several bytes stays whole.
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u) --end;
  return fmt::format("{}... ({} bytes)", text.substr(0, end), text.size());
}

std::string Setting::shown() const {
  if (kind == Kind::string) return "\"" + shortened(text) + "\"";
  if (kind != Kind::list) return shortened(text);
  std::vector<std::string> parts;
  for (const Setting& item : items) parts.push_back(item.shown());
  return shortened(fmt::format("[{}]", fmt::join(parts, ", ")));
}

std::string read_recipe_text(const fs::path& path, const std::string& named_by) {
  const std::string who = fmt::format("{}recipe {}", named_by, shortened(path.string()));
  std::error_code error;
  HEADWAY_CHECK(fs::exists(path, error), ConfigError, who + " does not exist");
  HEADWAY_CHECK(fs::is_regular_file(path, error), ConfigError, who + " is not a file");
  std::ifstream in(path, std::ios::binary);
  std::string text(kLargestFile + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  HEADWAY_CHECK(in.eof() || in, ConfigError, who + " cannot be read");
  text.resize(static_cast<size_t>(in.gcount()));
  HEADWAY_CHECK(text.size() <= kLargestFile, ConfigError,
                fmt::format("{} is larger than {} KiB, which no recipe is", who, kLargestFile / 1024));
  return text;
}

Settings read_toml(const fs::path& path, Settings* empty_tables) {
  return read_file(path, "", {}, empty_tables);
}

Settings parse_toml(std::string_view text, const std::string& origin) {
  Settings settings;
  flatten(parse(text, origin), origin, "", 0, settings, nullptr);
  return settings;
}

void add_override(Settings& settings, std::string_view argument) {
  const size_t equals = argument.find('=');
  const size_t first = std::min(argument.find_first_not_of('-'), argument.size());
  HEADWAY_CHECK(equals != std::string_view::npos && equals > first, ConfigError,
                fmt::format("{}: \"{}\" is not understood: expected section.key=value", kCommandLineOrigin,
                            shortened(argument)));
  const std::string key = trimmed(argument.substr(first, equals - first));
  const std::string text = trimmed(argument.substr(equals + 1));
  // The resolved recipe is TOML, which is UTF-8.
  HEADWAY_CHECK(
      is_utf8(argument), ConfigError,
      fmt::format("{}: the value of {} is not UTF-8", kCommandLineOrigin, is_utf8(key) ? key : "a key"));
  if (text.size() < 2 || text.front() != '[' || text.back() != ']') {
    settings[key] = override_scalar(text, key);
    return;
  }
  Setting list{.kind = Setting::Kind::list, .text = text, .items = {}, .origin = kCommandLineOrigin};
  for (const std::string& item : split_list(std::string_view(text).substr(1, text.size() - 2)))
    list.items.push_back(override_scalar(item, key));
  settings[key] = std::move(list);
}

std::string as_override(std::string_view key, const Setting& setting) {
  const auto value = [](const auto& self, const Setting& s) -> std::string {
    if (s.kind == Setting::Kind::string) return toml_string(s.text);
    if (s.kind != Setting::Kind::list) return s.text;
    std::vector<std::string> items;
    for (const Setting& item : s.items) items.push_back(self(self, item));
    return fmt::format("[{}]", fmt::join(items, ", "));
  };
  return fmt::format("{}={}", key, value(value, setting));
}

std::string toml_string(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (c == '\n')
      result += "\\n";
    else if (c == '\t')
      result += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      result += fmt::format("\\u{:04x}", static_cast<int>(c));
    else
      result += c;
  }
  return result + "\"";
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
    HEADWAY_CHECK(!value.is_null() && !value.is_object(), ConfigError,
                  fmt::format("{}: {} is no value of a key", origin, value.dump()));
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
