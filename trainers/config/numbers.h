// Numbers as people write them in recipes and on the command line. Empty where the text is not wholly such a
// number or does not fit.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace headway {

/// "-12", "+3", "1_000_000"; an underscore stands between digits.
std::optional<int64_t> parse_integer(std::string_view);
/// Also "0.5", "3e-4"; finite.
std::optional<double> parse_number(std::string_view);
/// Also "32K", "1.5M", "2B": thousands, millions, billions, when that is a whole number.
std::optional<int64_t> parse_count(std::string_view);

}  // namespace headway
