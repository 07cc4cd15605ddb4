// What an exception that was caught means to the user of a program.
#pragma once

#include <string>

#include "core/error.h"

namespace headway {

struct Failure {
  ExitCode code;
  std::string message;  // one sentence
};

/// Of the exception that is being handled: call it inside a catch block. An Error keeps its code and message,
/// a failed allocation is out_of_memory, a failed write to stdout is io_failure, anything else is unexpected.
Failure current_failure();

/// Whether everything the program printed so far has arrived. IoError with the reason where it has not.
void require_printed();

}  // namespace headway
