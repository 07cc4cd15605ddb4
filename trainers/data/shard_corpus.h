#pragma once

#include "trainers/data/token_corpus.h"

namespace headway {

/// data.tokens. DataError for missing or damaged shards and ids outside the vocabulary.
std::unique_ptr<TokenCorpus> open_shard_corpus(const DataRecipe&, int64_t vocab_size);

}  // namespace headway
