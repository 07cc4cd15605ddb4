#include "trainers/config/numbers.h"

#include <cctype>
#include <charconv>
#include <cmath>
#include <string>

namespace headway {
namespace {

bool is_digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }

/// Without one leading plus and without underscores between digits.
std::string plain_digits(std::string_view text) {
  std::string plain;
  if (text.starts_with('+') && text.size() > 1 && text[1] != '-') text.remove_prefix(1);
  for (size_t i = 0; i < text.size(); ++i) {
    const bool separates =
        text[i] == '_' && i > 0 && i + 1 < text.size() && is_digit(text[i - 1]) && is_digit(text[i + 1]);
    if (!separates) plain += text[i];
  }
  return plain;
}

template <class T>
std::optional<T> parse_whole(const std::string& text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

}  // namespace

std::optional<int64_t> parse_integer(std::string_view text) {
  return parse_whole<int64_t>(plain_digits(text));
}

std::optional<double> parse_number(std::string_view text) {
  const auto value = parse_whole<double>(plain_digits(text));
  return value && std::isfinite(*value) ? value : std::nullopt;
}

std::optional<int64_t> parse_count(std::string_view text) {
  size_t num_zeros = 0;
  if (!text.empty()) {
    const int suffix = std::toupper(static_cast<unsigned char>(text.back()));
    num_zeros = suffix == 'K' ? 3 : suffix == 'M' ? 6 : suffix == 'B' ? 9 : 0;
  }
  if (num_zeros == 0) return parse_integer(text);
  std::string digits = plain_digits(text.substr(0, text.size() - 1));
  // The point moves to the right digit by digit: in floating point 1.001K would not be whole.
  const size_t point = digits.find('.');
  if (point != std::string::npos) {
    digits.erase(point, 1);
    while (digits.size() > point + num_zeros && digits.back() == '0') digits.pop_back();
    const size_t num_decimals = digits.size() - point;
    if (num_decimals > num_zeros) return std::nullopt;
    num_zeros -= num_decimals;
  }
  if (digits.empty() || !is_digit(digits.back())) return std::nullopt;
  return parse_whole<int64_t>(digits + std::string(num_zeros, '0'));
}

}  // namespace headway
