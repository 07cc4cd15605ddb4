#include "trainers/commands/command.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "trainers/checkpoint_folder.h"
#include "trainers/config/numbers.h"
#include "trainers/config/settings.h"
#include "trainers/config/unknown_key.h"

namespace headway {
namespace {

std::vector<Command>& registry() {
  static std::vector<Command> commands;
  return commands;
}

template <class T>
CLI::Validator range_of(std::optional<T> (*parse)(std::string_view), T min, T max, const char* what) {
  return CLI::Validator(
      [=](const std::string& text) {
        const std::optional<T> value = parse(text);
        return value && *value >= min && *value <= max
                   ? std::string()
                   : fmt::format("{}: expected {} from {} to {}", shortened(text), what, min, max);
      },
      "");
}

std::string unknown_option(const CLI::App& verb, const std::string& given) {
  std::vector<std::string> names;
  for (const CLI::Option* option : verb.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  const std::string nearest = nearest_name(given, names);
  return fmt::format("{} has no option {}: {}see headway {} --help", verb.get_name(), shortened(given),
                     nearest.empty() ? "" : fmt::format("did you mean {}? ", nearest), verb.get_name());
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

CLI::Validator integer_from(int64_t min, int64_t max) {
  return range_of(parse_integer, min, max, "an integer");
}

CLI::Validator number_from(double min, double max) { return range_of(parse_number, min, max, "a number"); }

void Overrides::add_to(CLI::App& verb) {
  verb.add_option("overrides", values, "section.key=value, over what the recipe says; the last one counts");
  // --section.key=value is no option that CLI11 knows.
  verb.allow_extras();
  verb.parse_complete_callback([this, &verb] {
    for (const std::string& extra : verb.remaining()) {
      HEADWAY_CHECK(extra.find('=') != std::string::npos, ConfigError, unknown_option(verb, extra));
      values.push_back(extra);
    }
  });
}

}  // namespace headway
