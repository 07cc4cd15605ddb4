#include "trainers/commands/command.h"

#include <fmt/format.h>

#include <algorithm>

#include "trainers/checkpoint_folder.h"

namespace headway {
namespace {

std::vector<Command>& registry() {
  static std::vector<Command> commands;
  return commands;
}

}  // namespace

bool register_command(const Command& command) {
  auto& commands = registry();
  const auto by_name = [](const Command& a, const Command& b) { return a.name < b.name; };
  commands.insert(std::ranges::upper_bound(commands, command, by_name), command);
  return true;
}

std::span<const Command> all_commands() { return registry(); }

void CheckpointArgument::add_to(CLI::App& verb, const std::string& what) {
  verb.add_option("checkpoint", named, what)->required();
  verb.add_flag("--best", wants_best,
                "of a run folder, the checkpoint with the lowest validation loss (checkpoint.keep_best), not "
                "the newest");
}

std::filesystem::path CheckpointArgument::resolve() const {
  return wants_best ? best_checkpoint(named) : std::filesystem::path(named);
}

void Overrides::add_to(CLI::App& verb) {
  verb.add_option("overrides", values, "section.key=value, over what the recipe says; the last one counts");
  // --section.key=value is no option that CLI11 knows.
  verb.allow_extras();
  verb.parse_complete_callback([this, &verb] {
    for (const std::string& extra : verb.remaining()) {
      HEADWAY_CHECK(
          extra.find('=') != std::string::npos, ConfigError,
          fmt::format("{} has no option {}: see headway {} --help", verb.get_name(), extra, verb.get_name()));
      values.push_back(extra);
    }
  });
}

}  // namespace headway
