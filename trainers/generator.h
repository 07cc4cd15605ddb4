// Text from a model, token by token, with its decoding state.
#pragma once

#include <functional>
#include <string>

#include "core/text/tokenizer.h"
#include "layers/model.h"
#include "trainers/recipe.h"

namespace headway {

/// Continues the prompt by up to recipe.tokens tokens, ending early at end of text or where learned positions
/// end. on_text receives each piece as it is decided. Returns all of them. The same seed gives the same text.
std::string generate(Model&, const Tokenizer&, const GenerateRecipe&, uint64_t seed, Stream&,
                     const std::function<void(const std::string&)>& on_text);

}  // namespace headway
