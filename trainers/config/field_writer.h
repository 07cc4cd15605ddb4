// Configuration structs as text: a resolved recipe in TOML, and help on every key.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>

#include "core/fields.h"

namespace headway {

/// Calls describe(visitor) of a configuration.
using Describe = std::function<void(FieldVisitor&)>;

/// TOML that reads back to the same values; each line ends with a comment telling where the value came from.
std::string to_toml(const Describe&, const std::map<std::string, std::string>& origins);
/// A line or two per key: name, type and range, default, help.
std::string help_text(const Describe&);
/// Values in TOML by dotted key, and the keys alone.
std::map<std::string, std::string> field_values(const Describe&);
std::set<std::string> field_names(const Describe&);
/// "key: a -> b" for each field in which two configurations differ.
std::string differences(const Describe& before, const Describe& after);

}  // namespace headway
