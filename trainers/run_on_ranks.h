// How a program's work runs on the ranks that mpirun started.
#pragma once

#include <functional>
#include <string>

#include "core/comm/communicator.h"
#include "core/error.h"

namespace headway {

/// Runs work on every rank mpirun started, on the device, with threads fitted to the machine. An error on any
/// rank is printed and ends all of them with its status.
ExitCode run_on_ranks(const std::string& device, double timeout_s,
                      const std::function<ExitCode(Communicator&, Stream&)>& work);

/// One line on stderr, with the rank where there are several. When all ranks fail alike rank 0 speaks: the
/// others wait a moment, in which its end takes them along.
void print_error(const std::string& message, int rank, int size);

}  // namespace headway
