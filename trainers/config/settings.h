// Values of configuration keys before they are typed: from TOML files, command-line overrides and JSON.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace headway {

struct Setting {
  /// How the value was written; the command line has no types, so `any` fits every field.
  enum class Kind : uint8_t { any, boolean, integer, number, string, list };

  Kind kind = Kind::any;
  std::string text;            // of a scalar
  std::vector<Setting> items;  // of a list
  std::string origin;          // "recipes/base.toml:12:1" (line, column of the key) or "command line"
  uint64_t place = 0;          // grows along a TOML file, which follows the file it extends

  /// As the user wrote it, for messages, which cut what is very long.
  std::string shown() const;
};

/// Origin of an override.
inline constexpr const char* kCommandLineOrigin = "command line";
/// A key, value or path as messages show it: whole up to 200 bytes.
std::string shortened(std::string_view text);

/// By dotted key ("optim.lr").
using Settings = std::map<std::string, Setting, std::less<>>;

/// A TOML file, below the settings of the file its `extends` names (a path relative to it), and so on.
/// ConfigError with file, line and column for a missing file, a syntax error, a key given twice, dates or
/// tables in lists, a cycle of extends. Tables without a key are left out, or put into empty_tables with
/// their origins alone.
Settings read_toml(const std::filesystem::path&, Settings* empty_tables = nullptr);
/// The text of a recipe's file. ConfigError, with `named_by` in front, where it is missing, no file,
/// unreadable or larger than any recipe.
std::string read_recipe_text(const std::filesystem::path&, const std::string& named_by = "");
/// The same as read_toml from text, without extends.
Settings parse_toml(std::string_view text, const std::string& origin);
/// "section.key=value", with or without leading dashes; of two for one key the later counts. The value is
/// bare text that the field gives a type to, a TOML string in quotes, or a list of these in brackets.
/// ConfigError otherwise.
void add_override(Settings&, std::string_view argument);
/// The argument that add_override reads back to a setting of a TOML file.
std::string as_override(std::string_view key, const Setting&);
/// In quotes, with TOML's escapes.
std::string toml_string(std::string_view text);
/// Members of a JSON object, nested ones with dots. ConfigError for null.
Settings settings_from_json(const nlohmann::json& object, std::string_view origin);

}  // namespace headway
