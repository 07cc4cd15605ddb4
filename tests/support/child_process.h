// Runs part of a test in a process of its own, so that a crash or a hang there is a result and not the end.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>

namespace headway {

struct ChildEnd {
  int exit_status = -1;  // -1 when a signal ended it
  int signal = 0;        // SIGALRM when it ran past its time
};

/// f() -> exit status, in a forked child that has `seconds` to run. Leaves by exit(), so that exit handlers
/// of libraries run as they would at the end of a program.
template <class F>
ChildEnd run_in_child(unsigned seconds, const F& f) {
  const pid_t pid = fork();
  if (pid < 0) throw std::runtime_error("fork failed");
  if (pid == 0) {
    alarm(seconds);
    std::exit(f());
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFSIGNALED(status)) return {-1, WTERMSIG(status)};
  return {WEXITSTATUS(status), 0};
}

}  // namespace headway
