// headway: trains small language models with different attention mechanisms.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "core/comm/launch.h"
#include "core/io/hdf5_handle.h"
#include "trainers/commands/command.h"
#include "trainers/config/field_reader.h"

namespace headway {
namespace {

constexpr const char* kFooter =
    "Start here:\n"
    "  mpirun -np 2 headway train recipes/quickstart.toml     trains on the headers under /usr/include\n"
    "  headway generate runs/quickstart --prompt '#include'   continues a text with the result\n"
    "  headway train --help-recipe                            lists every key of a recipe\n"
    "Exit status: 0 done, 2 usage or recipe, 3 data, 4 checkpoint, 5 memory, 6 not finite, 7 file, 8 ranks,\n"
    "75 stopped on request with a valid checkpoint (run the same command again), 1 anything else.";

void add_commands(CLI::App& app, Action& action) {
  add_train_command(app, action);
  add_eval_command(app, action);
  add_generate_command(app, action);
  add_tokenize_command(app, action);
  add_export_command(app, action);
  add_inspect_command(app, action);
  add_plan_command(app, action);
}

/// The verb, or ConfigError with the nearest one.
void check_verb(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> verbs;
  for (const CLI::App* command : app.get_subcommands({})) verbs.push_back(command->get_name());
  for (const std::string& verb : verbs)
    if (verb == argv[1]) return;
  const std::string nearest = nearest_name(argv[1], verbs);
  throw ConfigError(
      fmt::format("\"{}\" is no verb of headway: {}", argv[1],
                  nearest.empty() ? "see headway --help" : fmt::format("did you mean {}?", nearest)));
}

ExitCode run(int argc, char** argv) {
  CLI::App app("Trains small language models with different attention mechanisms, fairly compared.",
               "headway");
  app.set_version_flag("--version", "headway " HEADWAY_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);
  Action action;
  add_commands(app, action);
  try {
    check_verb(app, argc, argv);
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {
    app.exit(request);  // --help, --version
    return ExitCode::ok;
  } catch (const CLI::ParseError& error) {
    throw ConfigError(fmt::format("{}; see headway{} --help", error.what(),
                                  argc > 1 && argv[1][0] != '-' ? fmt::format(" {}", argv[1]) : ""));
  }
  return action();
}

/// Prints and returns the status; on rank 0 alone where every rank must have met the same error.
int report(const std::string& message, ExitCode code) {
  const Launch launch = read_launch();
  if (launch.rank == 0) print_error(message, 0, 1);
  return static_cast<int>(code);
}

int guarded(int argc, char** argv) {
  try {
    prepare_hdf5();
    return static_cast<int>(run(argc, argv));
  } catch (const Error& error) {
    return report(error.what(), error.code());
  } catch (const std::bad_alloc&) {
    return report("out of memory", ExitCode::out_of_memory);
  } catch (const std::exception& error) {
    return report(error.what(), ExitCode::unexpected);
  }
}

}  // namespace
}  // namespace headway

int main(int argc, char** argv) {
  const int status = headway::guarded(argc, argv);
  std::fflush(stdout);
  // A library's exit handler must not turn a reported failure into a crash.
  if (status != 0) _exit(status);
  return 0;
}
