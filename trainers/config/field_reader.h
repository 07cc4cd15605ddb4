// Assigns settings to the fields of a configuration struct, with their types and ranges checked.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/fields.h"
#include "trainers/config/settings.h"

namespace headway {

/// Origin of a value that no setting gave.
inline constexpr std::string_view kDefaultOrigin = "default";

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

  /// A better explanation of an unknown key than its spelling gives, or an empty text.
  using UnknownKeyHint = std::function<std::string(const std::string& key)>;
  /// ConfigError for the first setting that no visited field took, saying what may have been meant.
  void check_all_used(const UnknownKeyHint& hint = {}) const;
  /// Where the value of each visited key came from; kDefaultOrigin where nothing set it.
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

}  // namespace headway
