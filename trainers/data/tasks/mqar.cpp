// Multi-query associative recall (Zoology, arXiv 2312.04927; multiquery_ar.py): pairs of a key and a value,
// then each key once more, asked for its value. Key m returns at slot g_m, drawn without replacement with
// weights (1 + g)^(gap_power - 1); the value itself does not return.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "trainers/data/tasks/task.h"

namespace headway {
namespace {

int64_t most_items(const TaskRecipe& recipe, int64_t seq_len) {
  const bool fits = seq_len % 2 == 0 && recipe.vocab_size > seq_len;
  return fits ? std::min(seq_len / 4, recipe.vocab_size / 2 - 1) : 0;
}

/// count slots of 0 <= g < num_slots in the order in which they are drawn. The largest log(u) / weight are
/// those that drawing one after the other would give (Efraimidis and Spirakis 2006).
std::vector<int64_t> draw_slots(int64_t count, int64_t num_slots, double gap_power, Draw& draw) {
  std::vector<double> rank(static_cast<size_t>(num_slots));
  for (int64_t g = 0; g < num_slots; ++g) {
    const double u = draw.uniform() + 0x1p-25;  // never 0
    rank[static_cast<size_t>(g)] = std::log(u) * std::pow(static_cast<double>(1 + g), 1 - gap_power);
  }
  std::vector<int64_t> slots(static_cast<size_t>(num_slots));
  std::iota(slots.begin(), slots.end(), int64_t{0});
  std::ranges::stable_sort(slots, [&](int64_t a, int64_t b) {
    return rank[static_cast<size_t>(a)] > rank[static_cast<size_t>(b)];
  });
  slots.resize(static_cast<size_t>(count));
  return slots;
}

void generate(const TaskRecipe& recipe, Draw& draw, ExampleRows rows) {
  const int64_t N = recipe.items, V = recipe.vocab_size, L = static_cast<int64_t>(rows.tokens.size());
  const std::vector<int32_t> keys = draw.distinct(N, 1, V / 2), values = draw.distinct(N, V / 2, V);
  for (size_t m = 0; m < keys.size(); ++m) {
    rows.write(keys[m]);
    rows.write(values[m]);
  }
  while (rows.at < rows.tokens.size()) rows.write(recipe.random_filler ? draw.below(V) : 0);
  const std::vector<int64_t> slots = draw_slots(N, (L - 2 * N) / 2, recipe.gap_power, draw);
  for (size_t m = 0; m < keys.size(); ++m) {
    rows.at = static_cast<size_t>(2 * N + 2 * slots[m]);
    rows.write(keys[m], values[m]);
  }
}

HEADWAY_TASK(mqar, "multi-query associative recall: `items` pairs of key and value, every key asked once",
             FactPlaces::own, most_items, generate);

}  // namespace
}  // namespace headway
