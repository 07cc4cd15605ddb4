#include "layers/attention/attention_layer.h"

#include <algorithm>
#include <vector>

namespace headway {
namespace {

std::vector<const AttentionVariant*>& registry() {
  static std::vector<const AttentionVariant*> variants;
  return variants;
}

}  // namespace

bool register_attention(const AttentionVariant* variant) {
  auto& variants = registry();
  const auto by_name = [](const AttentionVariant* a, const AttentionVariant* b) { return a->name < b->name; };
  variants.insert(std::upper_bound(variants.begin(), variants.end(), variant, by_name), variant);
  return true;
}

std::span<const AttentionVariant* const> all_attention() { return registry(); }

const AttentionVariant& find_attention(std::string_view name) {
  std::string known;
  for (const AttentionVariant* variant : registry()) {
    if (variant->name == name) return *variant;
    known += (known.empty() ? "" : ", ") + std::string(variant->name);
  }
  throw ConfigError("model.attention.kind = \"" + std::string(name) + "\" is unknown: expected one of " +
                    known);
}

}  // namespace headway
