// headway plan RECIPE
#include "trainers/plan.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/text/glob.h"
#include "core/text/tokenizer.h"
#include "trainers/commands/command.h"

namespace headway {
namespace {

/// Memory of the token ids: text is encoded into memory, shards are read as they are needed. Exact for bytes,
/// an upper bound for tokenizers that merge.
double data_bytes(const Recipe& recipe, const Tokenizer& tokenizer) {
  if (recipe.data.text.empty()) return 0;
  double bytes = 0;
  for (const auto& file : find_files(recipe.data.text, "data.text"))
    bytes += static_cast<double>(std::filesystem::file_size(file));
  if (recipe.data.max_bytes > 0) bytes = std::min(bytes, static_cast<double>(recipe.data.max_bytes));
  return bytes * (tokenizer.vocab_size() > 65536 ? 4 : 2);
}

Action add_options(OptionList verb) {
  struct Options {
    std::string recipe;
    int ranks = 1;
    std::vector<std::string> overrides;
  };
  const auto options = std::make_shared<Options>();
  verb.add_footer("Example:\n  headway plan recipes/quickstart.toml model.num_layers=12 -n 2");
  verb.add("recipe", options->recipe, "TOML file").required();
  verb.add_overrides(options->overrides);
  verb.add("-n,--ranks", options->ranks, "ranks of the run").integer_from(1, 1'000'000);
  return [options] {
    Recipe recipe = load_recipe(options->recipe, options->overrides);
    const auto tokenizer = recipe.data.make_tokenizer();
    recipe.resolve(tokenizer->vocab_size());
    const Plan plan = make_plan(recipe, data_bytes(recipe, *tokenizer), options->ranks);
    fmt::print("{}", to_text(plan, recipe, options->ranks));
    return ExitCode::ok;
  };
}

[[maybe_unused]] const bool is_registered =
    register_command({.name = "plan",
                      .summary = "Predict parameters, memory and work of a recipe without running it",
                      .add_options = add_options});

}  // namespace
}  // namespace headway
