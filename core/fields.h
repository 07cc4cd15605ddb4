// The fields of a configuration struct, listed once and visited by every reader and writer.
//
//   struct NormConfig {
//     double eps = 1e-5;
//     void describe(FieldVisitor& v) { v("eps", eps, "added to the mean square", {.min = 0, .max = 1}); }
//   };
//
// The TOML reader, the command-line override, the printer, the help text, the JSON reader of golden cases
// and the comparison of two recipes are visitors over that list.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace headway {

/// What a field accepts. min and max are inclusive and apply to each number of a list; choices apply to
/// strings.
struct FieldRule {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  std::vector<std::string_view> choices = {};
  bool is_count = false;  // written with K, M, B suffixes ("0.5M"), such as token counts
};

struct FieldInfo {
  std::string_view name;
  std::string_view help;
  FieldRule rule;
};

class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;

  virtual void visit(const FieldInfo&, bool&) = 0;
  virtual void visit(const FieldInfo&, int64_t&) = 0;
  virtual void visit(const FieldInfo&, double&) = 0;
  virtual void visit(const FieldInfo&, std::string&) = 0;
  virtual void visit(const FieldInfo&, std::vector<int64_t>&) = 0;
  virtual void visit(const FieldInfo&, std::vector<double>&) = 0;
  virtual void visit(const FieldInfo&, std::vector<std::string>&) = 0;
  /// Fields visited between enter and leave belong to the table `name` ("model", then "attention").
  virtual void enter(std::string_view name, std::string_view help) = 0;
  virtual void leave() = 0;

  template <class T>
  void operator()(std::string_view name, T& value, std::string_view help, FieldRule rule = {}) {
    visit(FieldInfo{name, help, std::move(rule)}, value);
  }
  /// A nested table: `value.describe(*this)` between enter and leave.
  template <class Section>
  void table(std::string_view name, Section& value, std::string_view help) {
    enter(name, help);
    value.describe(*this);
    leave();
  }
};

}  // namespace headway
