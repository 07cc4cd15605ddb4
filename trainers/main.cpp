// headway: trains small language models with different attention mechanisms.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "core/comm/launch.h"
#include "core/failure.h"
#include "core/io/hdf5_handle.h"
#include "core/stop_signal.h"
#include "kernels/cpu/blas_core.h"
#include "trainers/commands/command.h"
#include "trainers/config/unknown_key.h"
#include "trainers/run_on_ranks.h"

namespace headway {
namespace {

constexpr const char* kFooter =
    "Start here:\n"
    "  mpirun -np 2 headway train recipes/quickstart.toml     trains on the headers under /usr/include\n"
    "  headway generate runs/quickstart --prompt '#include'   continues a text with the result\n"
    "  headway train --help-recipe                            lists every key of a recipe\n"
    "Exit status: 0 done, 2 usage or recipe, 3 data, 4 checkpoint, 5 memory, 6 not finite, 7 file, 8 ranks,\n"
    "75 stopped on request with a valid checkpoint (go on with --resume), 1 anything else.";

/// The command that the first argument names, or null for an option. ConfigError with the nearest verb.
const Command* find_command(int argc, char** argv) {
  std::vector<std::string> verbs;
  for (const Command& command : all_commands()) verbs.emplace_back(command.name);
  HEADWAY_CHECK(argc > 1, ConfigError,
                fmt::format("expected a verb, one of {}: see headway --help", fmt::join(verbs, ", ")));
  if (argv[1][0] == '-') return nullptr;
  const auto found = std::ranges::find(all_commands(), argv[1], &Command::name);
  if (found != all_commands().end()) return &*found;
  const std::string nearest = nearest_name(argv[1], verbs);
  throw ConfigError(fmt::format("{} is not a verb of headway: {}", argv[1],
                                nearest.empty() ? fmt::format("expected one of {}", fmt::join(verbs, ", "))
                                                : fmt::format("did you mean {}?", nearest)));
}

ExitCode run(int argc, char** argv) {
  const Command* const chosen = find_command(argc, argv);
  if (chosen && chosen->saves_on_stop) catch_stop_signals();
  CommandLine command_line(
      "headway", "Trains small language models with different attention mechanisms, fairly compared.");
  command_line.add_version("headway " HEADWAY_VERSION);
  command_line.options().add_footer(kFooter);
  // All verbs, so that --help lists them.
  Action action;
  for (const Command& command : all_commands()) {
    Action declared =
        command.add_options(command_line.add_verb(std::string(command.name), std::string(command.summary)));
    if (&command == chosen) action = std::move(declared);
  }
  return command_line.read(argc, argv) ? action() : ExitCode::ok;
}

int guarded(int argc, char** argv) {
  try {
    let_writes_fail();
    prepare_hdf5();
    const ExitCode code = run(argc, argv);
    require_printed();
    return static_cast<int>(code);
  } catch (...) {
    // The ranks do not know each other yet, or no longer.
    const Failure failure = current_failure();
    const Launch launch = read_launch();
    print_error(failure.message, launch.rank, launch.size);
    return static_cast<int>(failure.code);
  }
}

}  // namespace
}  // namespace headway

int main(int argc, char** argv) {
  headway::keep_standard_descriptors();
  headway::restart_with_better_blas_core(argv);
  const int status = headway::guarded(argc, argv);
  // A library's exit handler must not turn a reported failure into a crash.
  if (status != 0) _exit(status);
  return 0;
}
