#include "layers/attention/attention_choice.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "layers/attention/attention_layer.h"

namespace headway {
namespace {

/// Whether a table of a recipe can have the name without quotes.
bool is_bare_key(std::string_view name) {
  return std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
}

bool is_kind(std::string_view name) {
  return std::ranges::any_of(all_attention(), [&](const auto* variant) { return variant->name == name; });
}

}  // namespace

AttentionChoice::AttentionChoice() : config_(find_attention("softmax").make_config()) {}

AttentionChoice::AttentionChoice(const std::string& name, const AttentionConfig& base)
    : config_(find_attention(is_kind(name) ? name : "softmax").make_config()) {
  if (!is_kind(name)) config_->kind.clear();
  config_->num_heads = base.num_heads;
  config_->num_kv_heads = base.num_kv_heads;
  config_->head_dim = base.head_dim;
}

void AttentionChoice::choose(FieldVisitor& v) {
  FieldRule rule;
  for (const AttentionVariant* variant : all_attention()) rule.choices.push_back(variant->name);
  std::string kind = config_->kind;
  v("kind", kind, "attention mechanism", rule);
  if (kind != config_->kind) *this = AttentionChoice(kind, *config_);
}

void describe_named(FieldVisitor& v, const std::string& key, const std::vector<std::string>& names,
                    const AttentionConfig& base, NamedAttention& named, const std::string& help) {
  for (const std::string& name : names) {
    HEADWAY_CHECK(is_bare_key(name), ConfigError,
                  fmt::format("{} names \"{}\": expected letters, digits, _ and - alone", key, name));
    if (!named.contains(name)) named.emplace(name, AttentionChoice(name, base));
  }
  for (auto& [name, choice] : named) {
    v.table(name, choice, help);
    HEADWAY_CHECK(!choice->kind.empty(), ConfigError,
                  fmt::format("{} names \"{}\": expected an attention kind, or a table of that name with a "
                              "kind",
                              key, name));
  }
}

}  // namespace headway
