// headway train RECIPE
#include <fmt/format.h>

#include <csignal>
#include <cstring>
#include <optional>

#include "core/comm/launch.h"
#include "layers/attention/attention_layer.h"
#include "trainers/commands/command.h"
#include "trainers/config/field_writer.h"
#include "trainers/launch_ranks.h"
#include "trainers/run_on_ranks.h"
#include "trainers/trainer.h"

namespace headway {
namespace {

void print_attention_help() {
  for (const AttentionVariant* variant : all_attention()) {
    fmt::print("model.attention.kind = \"{}\"\n  {} ({})\n", variant->name, variant->summary,
               variant->source);
    const auto config = variant->make_config();
    fmt::print("{}\n", help_text([&](FieldVisitor& v) { config->describe(v); }));
  }
}

/// The flag stands for the newest checkpoint, so it must not replace one that the recipe names.
void check_flag_resume(const Recipe& recipe) {
  const std::string& resume = recipe.checkpoint.resume;
  HEADWAY_CHECK(
      resume == "auto" || resume == "never", ConfigError,
      fmt::format("--resume goes on from the newest checkpoint and checkpoint.resume = \"{}\" from another: "
                  "expected one of them",
                  resume));
}

/// The same run as `mpirun -np <ranks> headway train`, without the words that mpirun has for a normal stop.
ExitCode train_on_ranks(int ranks, const std::string& recipe, const std::vector<std::string>& overrides) {
  HEADWAY_CHECK(!read_launch().has_launcher, ConfigError,
                "train -n starts mpirun itself: expected either mpirun or -n");
  std::vector<std::string> arguments{"train", recipe};
  arguments.insert(arguments.end(), overrides.begin(), overrides.end());
  const int code = RankLauncher(ranks, arguments, std::nullopt).wait();
  constexpr int kSignal = 128;  // what mpirun adds to the signal that ended a rank
  HEADWAY_CHECK(code <= kSignal || code > kSignal + SIGRTMAX, CommError,
                fmt::format("a rank was ended by signal {} ({}), and the others with it", code - kSignal,
                            strsignal(code - kSignal)));
  return static_cast<ExitCode>(code);
}

Action add_options(OptionList verb) {
  struct Options {
    std::string recipe;
    std::vector<std::string> overrides;
    std::optional<int> ranks;
    bool resume = false, force_new = false, help_recipe = false, help_attention = false;
  };
  const auto options = std::make_shared<Options>();
  verb.add_footer(
      "Examples:\n"
      "  headway train recipes/quickstart.toml\n"
      "  headway train recipes/quickstart.toml -n 2            on two ranks of this machine\n"
      "  mpirun -np 2 headway train recipes/quickstart.toml optim.lr=6e-4 run.name=higher_lr\n"
      "  headway train recipes/quickstart.toml --resume        go on after an interruption\n"
      "To stop and save: kill -USR1 <pid of mpirun or headway>; the exit status is then 75.");
  verb.add("recipe", options->recipe, "TOML file");
  verb.add_overrides(options->overrides);
  verb.add("-n,--ranks", options->ranks, "start mpirun with so many ranks on this machine")
      .integer_from(1, 1'000'000);
  verb.add("--resume", options->resume, "the same as checkpoint.resume=auto");
  verb.add("--force-new", options->force_new,
           "the same as run.force_new=true: delete an earlier run of this name");
  verb.add("--help-recipe", options->help_recipe, "list every key of a recipe with its range and default");
  verb.add("--help-attention", options->help_attention, "list the attention mechanisms and their keys");
  return [options] {
    if (options->help_recipe) {
      fmt::print("{}", Recipe().help());
      return ExitCode::ok;
    }
    if (options->help_attention) {
      print_attention_help();
      return ExitCode::ok;
    }
    HEADWAY_CHECK(!options->recipe.empty(), ConfigError,
                  "train needs the path of a recipe: see headway train --help");
    std::vector<std::string> overrides = options->overrides;
    HEADWAY_CHECK(!options->resume || !options->force_new, ConfigError,
                  "--resume continues a run and --force-new deletes it: expected one of them");
    if (options->resume) check_flag_resume(load_recipe(options->recipe, overrides));
    if (options->resume) overrides.push_back("checkpoint.resume=auto");
    if (options->force_new) overrides.push_back("run.force_new=true");
    const Recipe recipe = load_recipe(options->recipe, overrides);
    if (options->ranks) {
      recipe.accumulation_steps(*options->ranks);  // refuses what cannot be shared out, before mpirun starts
      return train_on_ranks(*options->ranks, options->recipe, overrides);
    }
    return run_on_ranks(recipe.run.device, recipe.comm.timeout_s, [&](Communicator& comm, Stream& stream) {
      return Trainer(recipe, comm, stream).run();
    });
  };
}

[[maybe_unused]] const bool is_registered = register_command({.name = "train",
                                                              .summary = "Train the model of a recipe",
                                                              .add_options = add_options,
                                                              .saves_on_stop = true});

}  // namespace
}  // namespace headway
