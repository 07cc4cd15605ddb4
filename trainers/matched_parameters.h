// Kinds of attention are compared at equal numbers of parameters: the width of the feed-forward layers makes
// up for what a kind adds to attention, or saves there.
#pragma once

#include <string>

#include "trainers/recipe.h"

namespace headway {

/// As a table: the parameters of the resolved recipe beside `wanted`, which are those of `other`, and the
/// multiple of 8 for model.mlp_dim that comes nearest to them while every other key stays.
std::string matched_parameters(const Recipe& resolved, int64_t wanted, const std::string& other);

}  // namespace headway
