#include "trainers/data/example_source.h"

#include <fmt/format.h>

#include "core/error.h"
#include "trainers/data/tasks/task.h"
#include "trainers/data/text_windows.h"

namespace headway {

std::unique_ptr<ExampleSource> ExampleSource::open(const DataRecipe& recipe, const Tokenizer& tokenizer,
                                                   int64_t seed, int64_t vocab_size,
                                                   std::shared_ptr<const TextDocuments> documents) {
  HEADWAY_CHECK(tokenizer.vocab_size() <= vocab_size, DataError,
                fmt::format("the tokenizer has {} tokens but model.vocab_size = {}", tokenizer.vocab_size(),
                            vocab_size));
  if (recipe.is_task()) return open_task(recipe, seed);
  return open_text_windows(TokenCorpus::open(recipe, tokenizer, vocab_size, std::move(documents)), recipe,
                           seed);
}

}  // namespace headway
