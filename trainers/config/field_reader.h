// Assigns settings to the fields of a configuration struct, with their types and ranges checked.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/fields.h"
#include "trainers/config/settings.h"

namespace headway {

class FieldReader final : public FieldVisitor {
 public:
  explicit FieldReader(const Settings& settings) : settings_(settings) {}

  void visit(const FieldInfo& info, bool& value) override;
  void visit(const FieldInfo& info, int64_t& value) override;
  void visit(const FieldInfo& info, double& value) override;
  void visit(const FieldInfo& info, std::string& value) override;
  void visit(const FieldInfo& info, std::vector<int64_t>& value) override;
  void visit(const FieldInfo& info, std::vector<double>& value) override;
  void visit(const FieldInfo& info, std::vector<std::string>& value) override;
  void enter(std::string_view name, std::string_view help) override;
  void leave() override;

  /// ConfigError for the first setting that no visited field took, naming the nearest key.
  void check_all_used() const;
  /// Where the value of each visited key came from; "default" where nothing set it.
  const std::map<std::string, std::string>& origins() const { return origins_; }

 private:
  const Setting* find(const FieldInfo&);
  template <class T>
  void read(const FieldInfo&, T&);
  template <class T>
  void read_list(const FieldInfo&, std::vector<T>&);

  const Settings& settings_;
  std::vector<std::string> path_;
  std::map<std::string, std::string> origins_;
};

/// The candidate with the fewest edits from name; empty when none is near.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace headway
