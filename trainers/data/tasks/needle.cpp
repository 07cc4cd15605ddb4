// Several facts in filler, the first at a depth p, random unless the recipe fixes it, and the others evenly
// between it and the end; then every one of them is asked for, in random order.
//
//   begin filler ... open key assign value close ... filler query key answer value query ...
//   asked at every `answer`: the value
#include <algorithm>

#include "trainers/data/tasks/task.h"

namespace headway {
namespace {

constexpr int64_t kFact = 5, kQuestion = 4;

int64_t most_items(const TaskRecipe& recipe, int64_t seq_len) {
  if (recipe.vocab_size < TaskVocabulary::smallest) return 0;
  const TaskVocabulary ids{recipe.vocab_size};
  return std::min({seq_len / (kFact + kQuestion), ids.first_value() - ids.first_key(),
                   ids.first_filler() - ids.first_value()});
}

void generate(const TaskRecipe& recipe, Draw& draw, ExampleRows rows) {
  const TaskVocabulary ids{recipe.vocab_size};
  const int64_t n = recipe.items;
  // The value of the last question need not be read any more.
  const int64_t num_filler = static_cast<int64_t>(rows.tokens.size()) - 1 - n * kFact - (n * kQuestion - 1);
  const std::vector<int32_t> keys = draw.distinct(n, ids.first_key(), ids.first_value()),
                             values = draw.distinct(n, ids.first_value(), ids.first_filler()),
                             questions = draw.distinct(n, 0, n);
  const double depth = fact_depth(recipe, draw);
  int64_t written = 0;
  const auto write_filler_up_to = [&](double share) {
    for (; written < static_cast<int64_t>(share * static_cast<double>(num_filler)); ++written)
      rows.write(ids.first_filler() + draw.below(ids.size - ids.first_filler()));
  };

  rows.write(ids.begin);
  for (int64_t m = 0; m < n; ++m) {
    write_filler_up_to(depth + (1 - depth) * static_cast<double>(m) / static_cast<double>(n));
    for (const int64_t token : {int64_t{ids.open}, int64_t{keys[static_cast<size_t>(m)]}, int64_t{ids.assign},
                                int64_t{values[static_cast<size_t>(m)]}, int64_t{ids.close}})
      rows.write(token);
  }
  write_filler_up_to(1);
  for (const int32_t m : questions) {
    const auto fact = static_cast<size_t>(m);
    rows.write(ids.query);
    rows.write(keys[fact]);
    rows.write(ids.answer, values[fact]);
    if (rows.at < rows.tokens.size()) rows.write(values[fact]);
  }
}

HEADWAY_TASK(needle, "find `items` facts (key = value) scattered in filler", FactPlaces::by_depth, most_items,
             generate);

}  // namespace
}  // namespace headway
