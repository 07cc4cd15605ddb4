#include "trainers/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "trainers/sampling.h"

namespace headway {

namespace {

/// Never empty: a model continues something. A tokenizer without end of text refuses an empty prompt itself.
std::vector<int32_t> tokens_of_prompt(const Tokenizer& tokenizer, const GenerateRecipe& recipe) {
  std::vector<int32_t> tokens;
  tokenizer.encode(recipe.prompt, tokens);
  if (tokens.empty()) tokens.push_back(tokenizer.end_of_text());
  return tokens;
}

/// How many tokens a text may have.
int64_t room_of(const ModelConfig& config) {
  return config.learned_positions ? config.max_seq_len : std::numeric_limits<int64_t>::max();
}

}  // namespace

std::string unknown_text_note(const DataRecipe& recipe, const Tokenizer& tokenizer) {
  if (recipe.is_task() || tokenizer.end_of_text() >= 0) return "";
  return fmt::format(
      "data.tokens holds ids of a tokenizer that is not known (data.tokenizer = \"{}\" has too few): text is "
      "written as ids from 0 to {}, and prompts are such ids with spaces between",
      recipe.tokenizer, tokenizer.vocab_size() - 1);
}

bool is_prompt(const Tokenizer& tokenizer, const std::string& prompt) {
  try {
    std::vector<int32_t> ids;
    tokenizer.encode(prompt, ids);
    return true;
  } catch (const DataError&) {
    return false;
  }
}

void check_prompt(const ModelConfig& config, const Tokenizer& tokenizer, const GenerateRecipe& recipe) {
  const size_t length = tokens_of_prompt(tokenizer, recipe).size();
  HEADWAY_CHECK(
      static_cast<int64_t>(length) <= room_of(config), ConfigError,
      fmt::format("generate.prompt has {} tokens but the model has {} positions", length, room_of(config)));
}

GeneratedText generate(Model& model, const Tokenizer& tokenizer, const GenerateRecipe& recipe, uint64_t seed,
                       Stream& stream, const std::function<void(const std::string&)>& on_text) {
  check_prompt(model.config(), tokenizer, recipe);
  std::vector<int32_t> tokens = tokens_of_prompt(tokenizer, recipe);
  const auto length = static_cast<int64_t>(tokens.size());
  const int64_t wanted = length + recipe.tokens, capacity = std::min(room_of(model.config()), wanted);

  Rng rng(seed);
  Context ctx{.stream = stream, .rng = rng};
  DecodeState state = model.make_state(1, capacity, stream.device());
  const RandomKey key{seed, 0, stream_of("generate"), 0};
  const SamplingConfig sampling{.temperature = recipe.temperature, .top_k = recipe.top_k};
  GeneratedText result;
  for (int64_t drawn = 0; drawn < capacity - length; ++drawn) {
    const Tensor input = Tensor::from<int32_t>(tokens, {1, static_cast<int64_t>(tokens.size())}, stream);
    const std::vector<float> logits = model.next_logits(ctx, input, state).to_vector<float>(stream);
    // Rows of the embedding beyond the vocabulary stand for no token.
    const std::span<const float> known(logits.data(), static_cast<size_t>(tokenizer.vocab_size()));
    const int32_t next = sample_token(known, sampling, key, static_cast<uint64_t>(drawn));
    if (next == tokenizer.end_of_text()) return result;
    const std::string piece = tokenizer.decode(std::span(&next, 1));
    result.text += piece;
    if (on_text) on_text(piece);
    tokens.assign(1, next);
  }
  result.ended_at_last_position = capacity < wanted;
  return result;
}

}  // namespace headway
