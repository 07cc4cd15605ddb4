#include "trainers/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "trainers/sampling.h"

namespace headway {

std::string generate(Model& model, const Tokenizer& tokenizer, const GenerateRecipe& recipe, uint64_t seed,
                     Stream& stream, const std::function<void(const std::string&)>& on_text) {
  std::vector<int32_t> tokens;
  tokenizer.encode(recipe.prompt, tokens);
  if (tokens.empty()) tokens.push_back(tokenizer.end_of_text());
  auto room = std::numeric_limits<int64_t>::max();
  if (model.config().learned_positions) {
    room = model.config().max_seq_len;
    HEADWAY_CHECK(
        static_cast<int64_t>(tokens.size()) <= room, ConfigError,
        fmt::format("generate.prompt has {} tokens but the model has {} positions", tokens.size(), room));
  }
  const auto length = static_cast<int64_t>(tokens.size());
  const int64_t capacity = std::min(room, length + recipe.tokens);

  Rng rng(seed);
  Context ctx{.stream = stream, .rng = rng};
  DecodeState state = model.make_state(1, capacity, stream.device());
  const RandomKey key{seed, 0, stream_of("generate"), 0};
  const SamplingConfig sampling{.temperature = recipe.temperature, .top_k = recipe.top_k};
  std::string text;
  for (int64_t drawn = 0; drawn < capacity - length; ++drawn) {
    const Tensor input = Tensor::from<int32_t>(tokens, {1, static_cast<int64_t>(tokens.size())}, stream);
    const std::vector<float> logits = model.next_logits(ctx, input, state).to_vector<float>(stream);
    // Rows of the embedding beyond the vocabulary stand for no token.
    const std::span<const float> known(logits.data(), static_cast<size_t>(tokenizer.vocab_size()));
    const int32_t next = sample_token(known, sampling, key, static_cast<uint64_t>(drawn));
    if (next == tokenizer.end_of_text()) break;
    const std::string piece = tokenizer.decode(std::span(&next, 1));
    text += piece;
    if (on_text) on_text(piece);
    tokens.assign(1, next);
  }
  return text;
}

}  // namespace headway
