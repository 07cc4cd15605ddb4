// headway inspect FILE
#include <fmt/format.h>

#include <filesystem>

#include "core/io/token_shards.h"
#include "trainers/commands/command.h"
#include "trainers/inspect_checkpoint.h"
#include "trainers/recipe.h"

namespace headway {
namespace {

ExitCode inspect(const std::string& file, const std::vector<std::string>& overrides) {
  namespace fs = std::filesystem;
  if (fs::path(file).extension() == ".toml") {
    fmt::print("{}", load_recipe(file, overrides).to_toml());
    return ExitCode::ok;
  }
  if (fs::is_regular_file(file) && is_token_shard(file)) {
    fmt::print("{}", describe_token_shard(file));
    return ExitCode::ok;
  }
  const Inspection inspection = inspect_checkpoint(file);
  fmt::print("{}", inspection.text);
  HEADWAY_CHECK(inspection.problem.empty(), CheckpointError, inspection.problem);
  return ExitCode::ok;
}

}  // namespace

void add_inspect_command(CLI::App& app, Action& action) {
  struct Options {
    std::string file;
    Overrides overrides;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* inspect_app = app.add_subcommand("inspect", "Show what is in a recipe, checkpoint or token file");
  inspect_app->footer(
      "A recipe is printed with every key resolved and where its value came from; of a checkpoint, all "
      "tensors are\n"
      "listed and their digests verified.\n"
      "Examples:\n"
      "  headway inspect recipes/quickstart.toml optim.lr=1e-3\n"
      "  headway inspect runs/quickstart");
  inspect_app
      ->add_option("file", options->file,
                   "recipe (.toml), checkpoint, weights file, run folder or token shard")
      ->required();
  options->overrides.add_to(*inspect_app);
  inspect_app->callback([options, &action] {
    action = [options] { return inspect(options->file, options->overrides.values); };
  });
}

}  // namespace headway
