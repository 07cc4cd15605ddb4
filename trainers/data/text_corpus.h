#pragma once

#include "trainers/data/token_corpus.h"

namespace headway {

/// data.text. DataError for patterns without a match, files that cannot be read, and a data.split that leaves
/// nothing to train on or to judge.
std::unique_ptr<TokenCorpus> open_text_corpus(const DataRecipe&, const Tokenizer&);

}  // namespace headway
