#include "trainers/stop_signal.h"

#include <csignal>
#include <initializer_list>

namespace headway {
namespace {

volatile std::sig_atomic_t received = 0;

void remember(int signal) {
  if (signal == SIGINT && received == SIGINT) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
    return;
  }
  received = signal;
}

}  // namespace

void catch_stop_signals() {
  struct sigaction action = {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;  // a write of a checkpoint must not fail with EINTR
  for (const int signal : {SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
}

int stop_signal_received() { return received; }

}  // namespace headway
