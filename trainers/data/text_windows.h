// Text as examples: windows of data.seq_len tokens at that distance, each token asked for the next.
#pragma once

#include "trainers/data/example_source.h"
#include "trainers/data/token_corpus.h"

namespace headway {

/// Training windows are whole; the last validation window may ask less. DataError where the training split
/// is shorter than one window.
std::unique_ptr<ExampleSource> open_text_windows(std::unique_ptr<TokenCorpus>, int64_t seq_len);

}  // namespace headway
