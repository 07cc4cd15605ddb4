// headway inspect FILE
#include <fmt/format.h>

#include <filesystem>

#include "core/io/token_shards.h"
#include "core/text/tokenizer.h"
#include "trainers/checkpoint.h"
#include "trainers/commands/command.h"
#include "trainers/inspect_checkpoint.h"
#include "trainers/recipe.h"

namespace headway {
namespace {

ExitCode inspect(const std::string& file, const std::vector<std::string>& overrides) {
  namespace fs = std::filesystem;
  if (fs::path(file).extension() == ".toml") {
    Recipe recipe = load_recipe(file, overrides);
    recipe.resolve(recipe.data.make_tokenizer()->vocab_size());
    fmt::print("{}", recipe.to_toml());
    return ExitCode::ok;
  }
  if (fs::is_regular_file(file) && is_token_shard(file)) {
    fmt::print("{}", describe_token_shard(file));
    return ExitCode::ok;
  }
  const Inspection inspection = inspect_checkpoint(file, check_loadable);
  fmt::print("{}", inspection.text);
  HEADWAY_CHECK(inspection.problem.empty(), CheckpointError, inspection.problem);
  return ExitCode::ok;
}

Action add_options(OptionList verb) {
  struct Options {
    std::string file;
    std::vector<std::string> overrides;
  };
  const auto options = std::make_shared<Options>();
  verb.add_footer(
      "A recipe is printed with every key resolved and where its value came from; of a checkpoint, all "
      "tensors are\n"
      "listed and their digests verified.\n"
      "Examples:\n"
      "  headway inspect recipes/quickstart.toml optim.lr=1e-3\n"
      "  headway inspect runs/quickstart");
  verb.add("file", options->file, "recipe (.toml), checkpoint, weights file, run folder or token shard")
      .required();
  verb.add_overrides(options->overrides);
  return [options] { return inspect(options->file, options->overrides); };
}

[[maybe_unused]] const bool is_registered =
    register_command({.name = "inspect",
                      .summary = "Show what is in a recipe, checkpoint or token file",
                      .add_options = add_options});

}  // namespace
}  // namespace headway
