// An attention config whose kind is a recipe key, and tables of such configs by name.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/fields.h"
#include "layers/attention/attention_config.h"

namespace headway {

/// The attention config of the chosen kind, as a value: copies are deep.
class AttentionChoice {
 public:
  AttentionChoice();  // softmax
  /// With the heads of base. A name that is no kind leaves the kind empty, for a recipe to say.
  AttentionChoice(const std::string& name, const AttentionConfig& base);
  AttentionChoice(const AttentionChoice& other) : config_(other.config_->clone()) {}
  AttentionChoice& operator=(const AttentionChoice& other) {
    config_ = other.config_->clone();
    return *this;
  }

  AttentionConfig& operator*() const { return *config_; }
  AttentionConfig* operator->() const { return config_.get(); }
  /// Visits `kind`, which decides which config takes the other keys.
  void choose(FieldVisitor&);
  void describe(FieldVisitor& v) {
    choose(v);
    config_->describe(v);
  }

 private:
  std::unique_ptr<AttentionConfig> config_;
};

/// By the name of their table.
using NamedAttention = std::map<std::string, AttentionChoice>;

/// Visits a table for each of the names, which the key lists: an attention kind, or a name whose table has a
/// kind. All inherit the heads of base. ConfigError for a name that is neither.
void describe_named(FieldVisitor&, const std::string& key, const std::vector<std::string>& names,
                    const AttentionConfig& base, NamedAttention&, const std::string& help);

}  // namespace headway
