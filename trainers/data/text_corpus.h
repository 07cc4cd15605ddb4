#pragma once

#include "trainers/data/token_corpus.h"

namespace headway {

/// data.text. DataError for patterns without a match and files that cannot be read.
std::unique_ptr<TokenCorpus> open_text_corpus(const DataRecipe&, const Tokenizer&, int64_t seed);

}  // namespace headway
