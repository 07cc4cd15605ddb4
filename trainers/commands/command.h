// The verbs of the program. Each file of this folder adds one: its options, and what to run when the user
// chose it.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "core/error.h"
#include "trainers/commands/command_line.h"

namespace headway {

/// What a verb does once its options are read.
using Action = std::function<ExitCode()>;

struct Command {
  std::string_view name;     // "train"
  std::string_view summary;  // its line in headway --help
  /// Declares the verb's options; the action reads their values.
  Action (*add_options)(OptionList verb);
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
  void add_to(OptionList& verb, const std::string& what = "checkpoint, weights file or run folder");
  /// For open_checkpoint(); throws what best_checkpoint() throws.
  std::filesystem::path resolve() const;
};

}  // namespace headway
