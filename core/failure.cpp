#include "core/failure.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <sstream>
#include <string_view>
#include <system_error>

#include "core/text/printable.h"

namespace headway {
namespace {

std::string print_failure(const char* reason) {
  return std::string("the standard output could not be written: ") + reason;
}

}  // namespace

Failure current_failure() {
  try {
    throw;
  } catch (const Error& error) {
    return {error.code(), error.what()};
  } catch (const std::bad_alloc&) {
    return {ExitCode::out_of_memory, "out of memory"};
  } catch (const std::system_error& error) {
    // What fmt::print throws. (A terminal that went away earlier must not pass for another error's reason.)
    if (std::ferror(stdout) != 0 && std::string_view(error.what()).starts_with("cannot write to file"))
      return {ExitCode::io_failure, print_failure(std::strerror(error.code().value()))};
    return {ExitCode::unexpected, error.what()};
  } catch (const std::exception& error) {
    return {ExitCode::unexpected, error.what()};
  }
}

void print_note(std::string_view text) {
  constexpr size_t kLongest = 1000, kBegin = 700, kEnd = 200;  // bytes of a line
  std::string lines = "headway: ";
  std::istringstream input{printable_lines(text)};
  for (std::string line; std::getline(input, line);) {
    if (line.size() > kLongest)
      line = line.substr(0, kBegin) + " ... (" + std::to_string(line.size()) + " bytes) ... " +
             line.substr(line.size() - kEnd);
    lines += line + "\n";
  }
  std::fputs(lines.c_str(), stderr);
}

void require_printed() {
  errno = 0;
  const bool failed_now = std::fflush(stdout) != 0;
  HEADWAY_CHECK(!failed_now && std::ferror(stdout) == 0, IoError,
                print_failure(failed_now ? std::strerror(errno) : "an earlier write failed"));
}

}  // namespace headway
