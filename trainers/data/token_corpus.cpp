#include "trainers/data/token_corpus.h"

#include <fmt/format.h>

#include "trainers/data/shard_corpus.h"
#include "trainers/data/text_corpus.h"
#include "trainers/progress.h"

namespace headway {

std::unique_ptr<TokenCorpus> TokenCorpus::open(const DataRecipe& recipe, const Tokenizer& tokenizer,
                                               int64_t vocab_size,
                                               std::shared_ptr<const TextDocuments> documents) {
  return recipe.tokens.empty() ? open_text_corpus(recipe, tokenizer, std::move(documents))
                               : open_shard_corpus(recipe, vocab_size);
}

HeldOut hold_out(const DataRecipe& recipe, int64_t num_tokens) {
  if (recipe.val_fraction == 0) return {};
  if (recipe.split == "blocks")
    return {held_out_blocks(num_tokens, recipe.val_fraction, recipe.split_seed),
            fmt::format("blocks by data.split_seed = {}", recipe.split_seed)};
  return {held_out_tail(num_tokens, recipe.val_fraction), "the end"};
}

void SplitCorpus::split(HeldOut held_out, int64_t num_tokens) {
  train_ = held_out.tokens.complement(num_tokens);
  held_out_ = std::move(held_out);
}

void SplitCorpus::read(Split part, int64_t offset, std::span<int32_t> ids) const {
  for (const auto& [begin, end] : tokens(part).find(offset, static_cast<int64_t>(ids.size()))) {
    const auto count = static_cast<size_t>(end - begin);
    read_all(begin, ids.first(count));
    ids = ids.subspan(count);
  }
}

std::string SplitCorpus::describe_split(const std::string& text) const {
  return fmt::format("{}, {} training and {} validation tokens (held out: {})", text,
                     format_count(static_cast<double>(train_.num_tokens())),
                     format_count(static_cast<double>(held_out_.tokens.num_tokens())), held_out_.description);
}

}  // namespace headway
