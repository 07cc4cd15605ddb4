// What an exception that was caught means to the user of a program.
#pragma once

#include <string>
#include <string_view>

#include "core/error.h"

namespace headway {

struct Failure {
  ExitCode code;
  std::string message;  // one sentence
};

/// Of the exception that is being handled: call it inside a catch block. An Error keeps its code and message,
/// a failed allocation is out_of_memory, a failed write to stdout is io_failure, anything else is unexpected.
Failure current_failure();

/// Writes a line "headway: ..." on stderr, with control characters as escapes and long lines cut. Where
/// stderr cannot be written, there is nobody to tell.
void print_note(std::string_view text);

/// Whether everything the program printed so far has arrived. IoError with the reason where it has not.
void require_printed();

}  // namespace headway
