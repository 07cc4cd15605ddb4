// Fills the fields of a config from a JSON object, as golden cases and tests of layers write them.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>

#include "core/fields.h"

namespace headway::testing {

class JsonFields final : public FieldVisitor {
 public:
  explicit JsonFields(nlohmann::json object) : object_(std::move(object)) {}

  void visit(const FieldInfo& info, bool& value) override { read(info, value); }
  void visit(const FieldInfo& info, int64_t& value) override { read(info, value); }
  void visit(const FieldInfo& info, double& value) override { read(info, value); }
  void visit(const FieldInfo& info, std::string& value) override { read(info, value); }
  void visit(const FieldInfo& info, std::vector<int64_t>& value) override { read(info, value); }
  void visit(const FieldInfo& info, std::vector<double>& value) override { read(info, value); }
  void visit(const FieldInfo& info, std::vector<std::string>& value) override { read(info, value); }
  void enter(std::string_view, std::string_view) override {}
  void leave() override {}

  /// A key that no field has is a mistake of the case.
  void check_all_used() const {
    for (const auto& [key, value] : object_.items())
      if (!used_.contains(key)) throw std::runtime_error("no field is called " + key);
  }

 private:
  template <class T>
  void read(const FieldInfo& info, T& value) {
    const auto entry = object_.find(std::string(info.name));
    if (entry == object_.end()) return;
    value = entry->template get<T>();
    used_.insert(std::string(info.name));
  }

  nlohmann::json object_;
  std::set<std::string> used_;
};

}  // namespace headway::testing
