// A random string, filler, a separator, and the string again, every token of which is asked for.
//
//   x_1 ... x_n  filler ...  separator x_1 ... x_{n-1}      asked from the separator on: x_1 ... x_n
#include "trainers/data/tasks/task.h"

namespace headway {
namespace {

int64_t most_items(const TaskRecipe& recipe, int64_t seq_len) {
  return recipe.vocab_size >= TaskVocabulary::smallest ? seq_len / 2 : 0;
}

void generate(const TaskRecipe& recipe, Draw& draw, ExampleRows rows) {
  const TaskVocabulary ids{recipe.vocab_size};
  std::vector<int64_t> text;
  for (int64_t i = 0; i < recipe.items; ++i) {
    text.push_back(ids.first_value() + draw.below(ids.first_filler() - ids.first_value()));
    rows.write(text.back());
  }
  while (rows.at + text.size() < rows.tokens.size())
    rows.write(ids.first_filler() + draw.below(ids.size - ids.first_filler()));
  rows.write(ids.separator, text.front());
  for (size_t i = 0; i + 1 < text.size(); ++i) rows.write(text[i], text[i + 1]);
}

HEADWAY_TASK(copy, "repeat a string of `items` tokens after filler", FactPlaces::own, most_items, generate);

}  // namespace
}  // namespace headway
