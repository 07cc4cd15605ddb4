// Text as examples: windows of data.seq_len tokens, each token asked for the next.
//
// With data.windows = "moving", window i of an epoch begins at token offset + i * seq_len of the training
// text, the offset drawn from (run.seed, epoch), and goes on at the beginning of the text where it reaches
// its end. So the windows of an epoch cut the text elsewhere than those of another, there are equally many,
// and every token is asked for once: where seq_len does not divide the text, the last window asks for the
// rest alone. With "fixed", window i begins at token i * seq_len in every epoch, and a rest is left out.
#pragma once

#include "trainers/data/example_source.h"
#include "trainers/data/token_corpus.h"

namespace headway {

/// Validation windows are fixed, and the last one asks for what is left. DataError where the training split
/// is shorter than one window, unless data.val_fraction = 1 leaves none.
std::unique_ptr<ExampleSource> open_text_windows(std::unique_ptr<TokenCorpus>, const DataRecipe&,
                                                 int64_t seed);

}  // namespace headway
