// The verbs of the program. Each file of this folder adds one: its options, and what to run when the user
// chose it.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace headway {

/// Set by the verb the user chose.
using Action = std::function<ExitCode()>;

struct Command {
  std::string_view name;     // "train"
  std::string_view summary;  // its line in headway --help
  /// Declares the verb's options and, in its callback, sets the action.
  void (*add_options)(CLI::App& verb, Action& action);
  /// Whether a signal to stop is a request that the verb answers by saving, from its first moment on.
  bool saves_on_stop = false;
};

/// At the end of a verb's file, in its unnamed namespace:
///   [[maybe_unused]] const bool is_registered = register_command({...});
/// The files are part of the program itself and of no library, so the linker keeps them.
bool register_command(const Command&);
/// Sorted by name.
std::span<const Command> all_commands();

/// The checkpoint a verb is about: its first argument, and --best.
struct CheckpointArgument {
  std::string named;
  bool wants_best = false;
  void add_to(CLI::App& verb, const std::string& what = "checkpoint, weights file or run folder");
  /// For open_checkpoint(); throws what best_checkpoint() throws.
  std::filesystem::path resolve() const;
};

/// For options that are numbers: what is no number, has too many digits or lies outside the range is refused.
/// (Ranges of CLI11 let nan and overflowing integers pass.)
CLI::Validator integer_from(int64_t min, int64_t max);
CLI::Validator number_from(double min, double max);

/// "section.key=value" arguments, with or without leading dashes. Keep it alive until the action has run.
struct Overrides {
  std::vector<std::string> values;
  void add_to(CLI::App& verb);
};

}  // namespace headway
