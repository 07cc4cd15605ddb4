#include "trainers/data/token_corpus.h"

#include <fmt/format.h>

#include "core/error.h"
#include "trainers/data/shard_corpus.h"
#include "trainers/data/text_corpus.h"

namespace headway {

std::unique_ptr<TokenCorpus> TokenCorpus::open(const DataRecipe& recipe, const Tokenizer& tokenizer,
                                               int64_t seed, int64_t vocab_size) {
  HEADWAY_CHECK(tokenizer.vocab_size() <= vocab_size, DataError,
                fmt::format("the tokenizer has {} tokens but model.vocab_size = {}", tokenizer.vocab_size(),
                            vocab_size));
  return recipe.tokens.empty() ? open_text_corpus(recipe, tokenizer, seed)
                               : open_shard_corpus(recipe, vocab_size);
}

}  // namespace headway
