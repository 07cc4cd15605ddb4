// Text from a model, token by token, with its decoding state.
#pragma once

#include <functional>
#include <string>

#include "core/text/tokenizer.h"
#include "layers/model.h"
#include "trainers/recipe.h"

namespace headway {

/// One sentence for people where the tokens of a text are ids that no known tokenizer can turn into text:
/// those of shards that are not data.tokenizer's. Empty where they have a text, or are a task's, which needs
/// none.
std::string unknown_text_note(const DataRecipe&, const Tokenizer&);

/// Whether the tokenizer can encode the prompt.
bool is_prompt(const Tokenizer&, const std::string& prompt);

/// ConfigError where the prompt has more tokens than the model has learned positions.
void check_prompt(const ModelConfig&, const Tokenizer&, const GenerateRecipe&);

struct GeneratedText {
  std::string text;
  bool ended_at_last_position = false;  // of learned ones, before the tokens that were asked for
};

/// Continues the prompt by up to recipe.tokens tokens, ending early at end of text or where learned positions
/// end. on_text receives each piece as it is decided. The same seed gives the same text. Throws what
/// check_prompt throws.
GeneratedText generate(Model&, const Tokenizer&, const GenerateRecipe&, uint64_t seed, Stream&,
                       const std::function<void(const std::string&)>& on_text);

}  // namespace headway
