// One number hidden in filler, at a random place unless the recipe fixes its depth, asked for at the end,
// digit by digit.
//
//   begin filler ... open key d_1 ... d_n close filler ... query key answer d_1 ... d_{n-1}
//   asked from `answer` on: d_1 ... d_n
#include <algorithm>

#include "trainers/data/tasks/task.h"

namespace headway {
namespace {

constexpr int64_t kMarks = 7;  // begin, open, key, close, query, key, answer

int64_t most_items(const TaskRecipe& recipe, int64_t seq_len) {
  return recipe.vocab_size >= TaskVocabulary::smallest ? std::max<int64_t>(0, (seq_len - kMarks + 1) / 2) : 0;
}

void generate(const TaskRecipe& recipe, Draw& draw, ExampleRows rows) {
  const TaskVocabulary ids{recipe.vocab_size};
  const int64_t n = recipe.items,
                num_filler = static_cast<int64_t>(rows.tokens.size()) - kMarks - (2 * n - 1);
  // A random depth is below 1, and every place has the same share of it.
  const double depth = fact_depth(recipe, draw);
  const int64_t before =
      std::min(num_filler, static_cast<int64_t>(depth * static_cast<double>(num_filler + 1)));
  const int64_t key = ids.first_key() + draw.below(ids.first_value() - ids.first_key());
  std::vector<int64_t> digits;
  for (int64_t i = 0; i < n; ++i) digits.push_back(ids.first_digit + draw.below(ids.num_digits));
  const auto write_filler = [&](int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      rows.write(ids.first_filler() + draw.below(ids.size - ids.first_filler()));
  };

  rows.write(ids.begin);
  write_filler(before);
  rows.write(ids.open);
  rows.write(key);
  for (const int64_t digit : digits) rows.write(digit);
  rows.write(ids.close);
  write_filler(num_filler - before);
  rows.write(ids.query);
  rows.write(key);
  rows.write(ids.answer, digits.front());
  for (size_t i = 0; i + 1 < digits.size(); ++i) rows.write(digits[i], digits[i + 1]);
}

HEADWAY_TASK(passkey, "find a number of `items` digits hidden in filler", FactPlaces::by_depth, most_items,
             generate);

}  // namespace
}  // namespace headway
