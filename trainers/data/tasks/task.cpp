#include "trainers/data/tasks/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "core/io/digest.h"

namespace headway {
namespace {

// Changes whenever a generator changes what it makes.
constexpr int kGeneratorVersion = 2;

std::vector<const Task*>& registry() {
  static std::vector<const Task*> tasks;
  return tasks;
}

const Task& find_task(const std::string& name) {
  const auto found = std::ranges::find(registry(), name, &Task::name);
  HEADWAY_CHECK(found != registry().end(), ConfigError,
                fmt::format("data.task.kind = \"{}\" is unknown", name));
  return **found;
}

class TaskExamples final : public ExampleSource {
 public:
  TaskExamples(const Task& task, const DataRecipe& recipe, int64_t seed)
      : task_(task),
        recipe_(recipe.task),
        seq_len_(recipe.seq_len),
        seed_(static_cast<uint64_t>(seed)),
        split_seed_(static_cast<uint64_t>(recipe.split_seed)) {}

  int64_t num_examples(Split split) const override {
    return split == Split::train ? recipe_.examples : recipe_.val_examples;
  }
  void read(const ExamplePlace& place, std::span<int32_t> tokens, std::span<int32_t> targets) const override {
    // An example has a stream of its own: 2^40 numbers from its place in the split.
    const uint64_t seed = place.split == Split::train ? seed_ : split_seed_;
    Draw draw({seed, static_cast<uint32_t>(place.split), stream_of(task_.name.data()),
               static_cast<uint64_t>(place.index) << 40});
    std::ranges::fill(targets, -1);
    task_.generate(recipe_, draw, {tokens, targets});
  }
  std::string fingerprint() const override {
    std::string definition =
        fmt::format("{} {} {} {} {} {} {} {} {} {} {}", task_.name, kGeneratorVersion, seed_, seq_len_,
                    recipe_.items, recipe_.vocab_size, recipe_.gap_power, recipe_.random_filler,
                    recipe_.depth, recipe_.examples, recipe_.val_examples);
    // Without a seed of its own, validation took the run's: such checkpoints must find their digest again.
    if (split_seed_ != seed_) definition += fmt::format(" {}", split_seed_);
    return xxh3_64(definition.data(), definition.size());
  }
  DataDigests digests() const override {
    const std::string both =
        fmt::format("{} {} {} {} {} {} {} {}", task_.name, kGeneratorVersion, seq_len_, recipe_.items,
                    recipe_.vocab_size, recipe_.gap_power, recipe_.random_filler, recipe_.depth);
    const auto digest_of = [](const std::string& definition) {
      return xxh3_64(definition.data(), definition.size());
    };
    return {
        .all = digest_of(both),
        .train = digest_of(fmt::format("{} train {} {}", both, seed_, recipe_.examples)),
        .held_out = digest_of(fmt::format("{} validation {} {}", both, split_seed_, recipe_.val_examples))};
  }
  bool asks_questions() const override { return true; }
  std::string description() const override {
    return fmt::format("task {} with {} items, {} training and {} validation examples", task_.name,
                       recipe_.items, recipe_.examples, recipe_.val_examples);
  }

 private:
  const Task& task_;
  TaskRecipe recipe_;
  int64_t seq_len_;
  uint64_t seed_, split_seed_;
};

}  // namespace

std::vector<int32_t> Draw::distinct(int64_t count, int64_t first, int64_t end) {
  // Fisher and Yates on an array of which only the changed places are kept.
  std::unordered_map<int64_t, int64_t> moved;
  const auto at = [&](int64_t i) {
    const auto found = moved.find(i);
    return found == moved.end() ? i : found->second;
  };
  std::vector<int32_t> drawn;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t other = i + below(end - first - i);
    drawn.push_back(static_cast<int32_t>(first + at(other)));
    moved[other] = at(i);
  }
  return drawn;
}

std::span<const Task* const> all_tasks() { return registry(); }

bool register_task(const Task* task) {
  auto& tasks = registry();
  tasks.insert(std::ranges::upper_bound(tasks, task->name, {}, &Task::name), task);
  return true;
}

void check_task(const DataRecipe& recipe) {
  const Task& task = find_task(recipe.task.kind);
  const int64_t most = task.most_items(recipe.task, recipe.seq_len);
  HEADWAY_CHECK(
      recipe.task.items <= most, ConfigError,
      fmt::format("data.task.items = {}: expected at most {} for {} with data.seq_len = {} and "
                  "data.task.vocab_size = {}",
                  recipe.task.items, most, recipe.task.kind, recipe.seq_len, recipe.task.vocab_size));
  HEADWAY_CHECK(task.fact_places == FactPlaces::by_depth || recipe.task.depth == -1, ConfigError,
                fmt::format("data.task.depth = {}: expected -1 for {}, whose facts have places of their own",
                            recipe.task.depth, recipe.task.kind));
}

std::unique_ptr<ExampleSource> open_task(const DataRecipe& recipe, int64_t seed) {
  check_task(recipe);
  return std::make_unique<TaskExamples>(find_task(recipe.task.kind), recipe, seed);
}

}  // namespace headway
