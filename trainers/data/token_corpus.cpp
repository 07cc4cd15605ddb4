#include "trainers/data/token_corpus.h"

#include <fmt/format.h>

#include "trainers/data/shard_corpus.h"
#include "trainers/data/text_corpus.h"
#include "trainers/progress.h"

namespace headway {

std::unique_ptr<TokenCorpus> TokenCorpus::open(const DataRecipe& recipe, const Tokenizer& tokenizer,
                                               int64_t vocab_size) {
  return recipe.tokens.empty() ? open_text_corpus(recipe, tokenizer) : open_shard_corpus(recipe, vocab_size);
}

HeldOut hold_out(const DataRecipe& recipe, int64_t num_tokens) {
  if (recipe.val_fraction == 0) return {};
  if (recipe.split == "blocks")
    return {held_out_blocks(num_tokens, recipe.val_fraction, recipe.split_seed),
            fmt::format("blocks by data.split_seed = {}", recipe.split_seed)};
  return {held_out_tail(num_tokens, recipe.val_fraction), "the end"};
}

std::string describe_split(const std::string& text, int64_t num_train, int64_t num_validation,
                           const std::string& held_out) {
  return fmt::format("{}, {} training and {} validation tokens (held out: {})", text,
                     format_count(static_cast<double>(num_train)),
                     format_count(static_cast<double>(num_validation)), held_out);
}

}  // namespace headway
