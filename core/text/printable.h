// Text from files as it may reach a terminal: control characters, which could move the cursor, rename the
// window or fake a line of ours, become escapes such as \x1b.
#pragma once

#include <string>
#include <string_view>

namespace headway {

/// One line: of names and values.
std::string printable(std::string_view text);
/// The same, but for line feeds and tabs: of messages.
std::string printable_lines(std::string_view text);

}  // namespace headway
