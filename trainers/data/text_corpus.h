#pragma once

#include "trainers/data/text_documents.h"
#include "trainers/data/token_corpus.h"

namespace headway {

/// Documents in two splits. DataError for a data.split that leaves nothing to train on or to judge.
std::unique_ptr<TokenCorpus> open_text_corpus(const DataRecipe&, const Tokenizer&,
                                              std::shared_ptr<const TextDocuments>);

}  // namespace headway
