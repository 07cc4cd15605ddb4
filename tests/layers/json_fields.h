// Fills the fields of a config from a JSON object, as golden cases and tests of layers write them.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/fields.h"

namespace headway::testing {

/// The keys with changes.
inline nlohmann::json with(nlohmann::json keys, const nlohmann::json& changes) {
  keys.update(changes);
  return keys;
}

class JsonFields final : public FieldVisitor {
 public:
  explicit JsonFields(nlohmann::json object) : scopes_{std::move(object)} {}

  void visit(const FieldInfo& info, bool& value) override { read(info, value); }
  void visit(const FieldInfo& info, int64_t& value) override { read(info, value); }
  void visit(const FieldInfo& info, double& value) override { read(info, value); }
  void visit(const FieldInfo& info, std::string& value) override { read(info, value); }
  void visit(const FieldInfo& info, std::vector<int64_t>& value) override { read(info, value); }
  void visit(const FieldInfo& info, std::vector<double>& value) override { read(info, value); }
  void visit(const FieldInfo& info, std::vector<std::string>& value) override { read(info, value); }
  void enter(std::string_view name, std::string_view) override {
    if (scopes_.size() == 1) used_.insert(std::string(name));
    const auto inner = scopes_.back().find(std::string(name));
    scopes_.push_back(inner == scopes_.back().end() ? nlohmann::json::object() : *inner);
  }
  void leave() override { scopes_.pop_back(); }

  /// A key that no field has is a mistake of the case.
  void check_all_used() const {
    for (const auto& [key, value] : scopes_.front().items())
      if (!used_.contains(key)) throw std::runtime_error("no field is called " + key);
  }

 private:
  template <class T>
  void read(const FieldInfo& info, T& value) {
    const auto entry = scopes_.back().find(std::string(info.name));
    if (entry == scopes_.back().end()) return;
    value = entry->template get<T>();
    used_.insert(std::string(info.name));
  }

  std::vector<nlohmann::json> scopes_;  // the object, and those entered
  std::set<std::string> used_;
};

}  // namespace headway::testing
