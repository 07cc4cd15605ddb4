// headway plan RECIPE
#include "trainers/plan.h"

#include <fmt/format.h>

#include <filesystem>
#include <optional>

#include "core/text/tokenizer.h"
#include "trainers/commands/command.h"
#include "trainers/matched_parameters.h"

namespace headway {
namespace {

Recipe resolved(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  Recipe recipe = load_recipe(path, overrides);
  recipe.resolve(recipe.data.make_tokenizer()->vocab_size());
  return recipe;
}

/// "softmax" stands for softmax.toml in the recipe's folder.
std::filesystem::path recipe_to_match(const std::string& named, const std::filesystem::path& recipe) {
  return named.ends_with(".toml") ? std::filesystem::path(named) : recipe.parent_path() / (named + ".toml");
}

Action add_options(OptionList verb) {
  struct Options {
    std::string recipe;
    std::optional<std::string> match;
    int ranks = 1;
    std::vector<std::string> overrides;
  };
  const auto options = std::make_shared<Options>();
  verb.add_footer(
      "Examples:\n"
      "  headway plan recipes/quickstart.toml model.num_layers=12 -n 2\n"
      "  headway plan recipes/gated.toml --match softmax");
  verb.add("recipe", options->recipe, "TOML file").required();
  verb.add_overrides(options->overrides);
  verb.add("--match", options->match,
           "propose a model.mlp_dim with as many parameters as this recipe, or kind in the recipe's folder");
  verb.add("-n,--ranks", options->ranks, "ranks of the run").integer_from(1, 1'000'000);
  return [options] {
    const Recipe recipe = resolved(options->recipe, options->overrides);
    const auto tokenizer = recipe.data.make_tokenizer();
    const Plan plan = make_plan(recipe, measure_text(recipe.data, *tokenizer), options->ranks);
    std::string text = to_text(plan, recipe, options->ranks);
    if (options->match) {
      const auto other = recipe_to_match(*options->match, options->recipe);
      const int64_t wanted = Model(resolved(other, {}).model).num_parameters();
      text += matched_parameters(recipe, wanted, other.string());
    }
    fmt::print("{}", text);
    return ExitCode::ok;
  };
}

[[maybe_unused]] const bool is_registered =
    register_command({.name = "plan",
                      .summary = "Predict parameters, memory and work of a recipe without running it",
                      .add_options = add_options});

}  // namespace
}  // namespace headway
