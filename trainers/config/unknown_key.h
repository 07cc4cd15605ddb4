// What a user may have meant by a name that does not exist.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace headway {

/// The candidate with the fewest edits from name; empty when none is near.
std::string nearest_name(std::string_view name, std::span<const std::string> candidates);

/// A hint for an unknown dotted key: the name that another framework uses for one of ours, the same name in
/// another section, the nearest spelling, or where all keys are listed.
std::string explain_unknown_key(std::string_view key, std::span<const std::string> known_keys);

}  // namespace headway
