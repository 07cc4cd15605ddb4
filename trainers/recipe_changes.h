// What may change in a recipe between a checkpoint and the run that goes on from it.
//
//   never        the model, the order of samples, what is trained: these make another run
//   if_allowed   what moves the course of the training: accepted where checkpoint.allow names the key
//   always       what changes no update (logging, saving, memory, ranks), and the names of the data, whose
//                digest is compared instead
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainers/recipe.h"

namespace headway {

enum class ChangeRule : uint8_t { never, if_allowed, always };

/// Of a key of the recipe: "optim.lr".
ChangeRule change_rule(std::string_view key);

struct RecipeChanges {
  /// "optim.lr: 0.01 -> 0.02", of the keys that checkpoint.allow names.
  std::vector<std::string> accepted;
  /// The same of the others, each with what would make it acceptable.
  std::vector<std::string> refused;
};

/// Both resolved. Keys that may always change are left out.
RecipeChanges compare_recipes(Recipe& stored, Recipe& current);

/// Gives the keys that say what is held out and where text is cut the stored values where the current recipe
/// leaves them out. Returns a sentence for people about each that changes.
std::vector<std::string> keep_data_rules(const Recipe& stored, Recipe& current);

/// ConfigError for entries of checkpoint.allow that are no keys, or keys that need or get no permission.
void check_allowed_keys(Recipe&);

}  // namespace headway
