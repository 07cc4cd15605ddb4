// JSON from files that may hold anything.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace headway {

/// Discarded (is_discarded(), and no object) where the text is no JSON, or nested deeper than anything of
/// ours: writing such a value again would exhaust the stack. Json: nlohmann::json or nlohmann::ordered_json.
template <class Json>
Json parse_json(const std::string& text) {
  constexpr int kDeepest = 32;
  bool is_too_deep = false;
  const auto watch = [&](int depth, typename Json::parse_event_t, Json&) {
    is_too_deep = is_too_deep || depth > kDeepest;
    return !is_too_deep;
  };
  Json value = Json::parse(text, watch, false);
  return is_too_deep ? Json(Json::value_t::discarded) : value;
}

}  // namespace headway
