#include "trainers/data/token_corpus.h"

#include "trainers/data/shard_corpus.h"
#include "trainers/data/text_corpus.h"

namespace headway {

std::unique_ptr<TokenCorpus> TokenCorpus::open(const DataRecipe& recipe, const Tokenizer& tokenizer,
                                               int64_t seed, int64_t vocab_size) {
  return recipe.tokens.empty() ? open_text_corpus(recipe, tokenizer, seed)
                               : open_shard_corpus(recipe, vocab_size);
}

}  // namespace headway
