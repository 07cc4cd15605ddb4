#include "trainers/commands/command.h"

#include <algorithm>
#include <vector>

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

void CheckpointArgument::add_to(OptionList& verb, const std::string& what) {
  verb.add("checkpoint", named, what).required();
  verb.add("--best", wants_best,
           "of a run folder, the checkpoint with the lowest validation loss (checkpoint.keep_best), not "
           "the newest");
}

std::filesystem::path CheckpointArgument::resolve() const {
  return wants_best ? best_checkpoint(named) : std::filesystem::path(named);
}

}  // namespace headway
