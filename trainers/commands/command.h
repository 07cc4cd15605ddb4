// The verbs of the program. Each file of this folder adds one: its options, and what to run when it is
// chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "core/comm/communicator.h"
#include "core/error.h"

namespace headway {

/// Set by the verb the user chose.
using Action = std::function<ExitCode()>;

void add_train_command(CLI::App&, Action&);
void add_eval_command(CLI::App&, Action&);
void add_generate_command(CLI::App&, Action&);
void add_tokenize_command(CLI::App&, Action&);
void add_export_command(CLI::App&, Action&);
void add_inspect_command(CLI::App&, Action&);
void add_plan_command(CLI::App&, Action&);

/// "section.key=value" arguments, with or without leading dashes.
struct Overrides {
  std::vector<std::string> values;
  void add_to(CLI::App&);
};

/// Runs work on every rank mpirun started, on the device, with threads fitted to the machine. An error on any
/// rank ends all of them with its status.
ExitCode run_on_ranks(const std::string& device, double timeout_s,
                      const std::function<ExitCode(Communicator&, Stream&)>& work);

/// One line on stderr, with the rank where there are several.
void print_error(const std::string& message, int rank, int size);

}  // namespace headway
