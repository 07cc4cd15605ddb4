// Synthetic tasks: token sequences that a generator makes, with questions whose answers stand earlier in
// them.
//
// A new task is one file in this folder: a check, a generator, and a HEADWAY_TASK line at its end. An example
// is a function of (seed, split, index) alone, the seed that of the run or, for validation, data.split_seed:
// so ranks and resumed runs see the same ones, and nothing is stored.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/rng.h"
#include "trainers/data/example_source.h"

namespace headway {

/// The random numbers of one example, in the order they are asked for.
class Draw {
 public:
  explicit Draw(const RandomKey& key) : key_(key) {}
  /// In [0, 1), 24 bits.
  double uniform() { return static_cast<double>(headway::uniform(key_, next_++)); }
  /// 0 <= result < bound < 2^32; the bias is below bound / 2^32.
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(uint64_t{random_bits(key_, next_++)} * static_cast<uint64_t>(bound) >> 32);
  }
  /// count different numbers from first <= n < end, in random order.
  std::vector<int32_t> distinct(int64_t count, int64_t first, int64_t end);

 private:
  RandomKey key_;
  uint64_t next_ = 0;
};

/// Ids that the tasks of this project reserve, and ranges of the rest by share of the vocabulary (1024, 3072
/// and 5120 of 8192). mqar has its published layout instead.
struct TaskVocabulary {
  static constexpr int32_t begin = 1, separator = 3, query = 4, answer = 5, assign = 6, open = 7, close = 8,
                           first_digit = 16, num_digits = 10;
  static constexpr int64_t smallest = 128;
  int64_t size;
  int64_t first_key() const { return std::max<int64_t>(size / 8, first_digit + num_digits); }
  int64_t first_value() const { return size * 3 / 8; }
  int64_t first_filler() const { return size * 5 / 8; }
};

/// Where a fact stands, as a share of the filler: the recipe's depth or a random one. Draws a number either
/// way, so that examples of different depths differ in nothing else.
inline double fact_depth(const TaskRecipe& recipe, Draw& draw) {
  const double random = draw.uniform();
  return recipe.depth < 0 ? random : recipe.depth;
}

/// One example as it is written, from left to right; what is not asked keeps the target -1.
struct ExampleRows {
  std::span<int32_t> tokens, targets;
  size_t at = 0;
  void write(int64_t token, int64_t target = -1) {
    tokens[at] = static_cast<int32_t>(token);
    targets[at++] = static_cast<int32_t>(target);
  }
};

/// Whether facts have places of their own, or one that data.task.depth may fix.
enum class FactPlaces : uint8_t { own, by_depth };

struct Task {
  std::string_view name;
  std::string_view summary;
  FactPlaces fact_places;
  /// Largest data.task.items that data.seq_len and the vocabulary leave room for; 0: none fits.
  int64_t (*most_items)(const TaskRecipe&, int64_t seq_len);
  void (*generate)(const TaskRecipe&, Draw&, ExampleRows);
};

/// Sorted by name.
std::span<const Task* const> all_tasks();
bool register_task(const Task*);

/// ConfigError for an unknown task, for items that do not fit and for a depth that the task does not have.
void check_task(const DataRecipe&);
/// Checks it first. seed: of the training examples.
std::unique_ptr<ExampleSource> open_task(const DataRecipe&, int64_t seed);

}  // namespace headway

/// Last line of a task's file.
#define HEADWAY_TASK(task_name, summary_text, places, most_items_function, generate_function)          \
  static const ::headway::Task task_name##_task{#task_name, summary_text, places, most_items_function, \
                                                generate_function};                                    \
  [[maybe_unused]] static const bool task_name##_registered = ::headway::register_task(&task_name##_task)
