#include "core/stop_signal.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <initializer_list>

namespace headway {
namespace {

volatile std::sig_atomic_t received = 0, is_urgent = 0, child_group = 0;

void remember(int signal) {
  received = signal;
  // A scheduler sends SIGUSR1 some time before SIGTERM, which must not cut off the save that is under way.
  if (signal == SIGUSR1 || signal == SIGUSR2 || signal == SIGXCPU) return;
  if (is_urgent) {
    if (child_group > 0) kill(-static_cast<pid_t>(child_group), SIGTERM);
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  is_urgent = 1;
}

}  // namespace

void keep_standard_descriptors() {
  // open() takes the lowest number that is free.
  for (int descriptor = 0; descriptor <= 2; ++descriptor)
    if (fcntl(descriptor, F_GETFD) < 0) (void)open("/dev/null", O_RDONLY);
}

void let_writes_fail() {
  for (const int signal : {SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_IGN);
}

void catch_stop_signals() {
  struct sigaction action = {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;  // a write of a checkpoint must not fail with EINTR
  struct sigaction inherited = {};
  const bool ignores_hangup = sigaction(SIGHUP, nullptr, &inherited) == 0 && inherited.sa_handler == SIG_IGN;
  for (const int signal : {SIGUSR1, SIGUSR2, SIGXCPU, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
  if (!ignores_hangup) sigaction(SIGHUP, &action, nullptr);
}

void end_with_process(int group) { child_group = group; }

int stop_signal_received() { return received; }

void throw_if_stop_requested() {
  HEADWAY_CHECK(received == 0, StopRequested,
                "stopped on request before the first step; run the same command again to start");
}

}  // namespace headway
