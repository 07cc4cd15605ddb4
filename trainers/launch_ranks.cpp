#include "trainers/launch_ranks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "core/comm/launch.h"
#include "core/error.h"
#include "core/stop_signal.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

fs::path make_shared_folder() {
  std::string name = "/dev/shm/headway-ranks.XXXXXX";
  HEADWAY_CHECK(mkdtemp(name.data()), IoError,
                fmt::format("cannot make a folder in /dev/shm: {}", std::strerror(errno)));
  return name;
}

std::vector<std::string> mpirun(int ranks, const fs::path& shared_folder) {
  std::vector<std::string> command{"mpirun", "-np", std::to_string(ranks), "--bind-to", "none"};
  // A run that stops on request has an exit status of its own, on which mpirun would write a page.
  command.push_back("--quiet");
  command.insert(command.end(), {"--mca", "btl_vader_backing_directory", shared_folder.string()});
  if (geteuid() == 0) command.push_back("--allow-run-as-root");
  if (ranks > read_cores().allowed) command.push_back("--oversubscribe");
  return command;
}

}  // namespace

RankLauncher::RankLauncher(int ranks, const std::vector<std::string>& arguments,
                           const std::optional<fs::path>& log) {
  int output = -1;
  if (log) {
    output = open(log->c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    HEADWAY_CHECK(output >= 0, IoError,
                  fmt::format("cannot write {}: {}", log->string(), std::strerror(errno)));
  }
  std::vector<std::string> command;
  if (ranks > 1) {  // after what may fail: a constructor that throws has no destructor to remove the folder
    shared_folder_ = make_shared_folder();
    command = mpirun(ranks, shared_folder_);
  }
  command.push_back(fs::read_symlink("/proc/self/exe").string());
  command.insert(command.end(), arguments.begin(), arguments.end());
  std::vector<char*> words;
  for (std::string& word : command) words.push_back(word.data());
  words.push_back(nullptr);

  std::array<std::array<int, 2>, 2> pipes{{{-1, -1}, {-1, -1}}};  // of stdout and stderr
  if (!log) {
    for (auto& ends : pipes)
      HEADWAY_CHECK(pipe2(ends.data(), O_CLOEXEC) == 0, IoError,
                    fmt::format("cannot make a pipe: {}", std::strerror(errno)));
  }
  const std::string threads = std::to_string(std::max(1, read_cores().allowed / ranks));
  child_ = fork();
  if (child_ == 0) {
    // In a process group of its own a Ctrl-C reaches this process alone, which then asks the ranks to save.
    setpgid(0, 0);
    // A request to save that comes before the ranks listen must not end them.
    std::signal(SIGUSR1, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGUSR1);
    // A process group in the background would be stopped when mpirun reads the terminal.
    if (const int nothing = open("/dev/null", O_RDONLY); nothing >= 0) dup2(nothing, STDIN_FILENO);
    dup2(log ? output : pipes[0][1], STDOUT_FILENO);
    dup2(log ? output : pipes[1][1], STDERR_FILENO);
    setenv("OMP_NUM_THREADS", threads.c_str(), 0);
    execvp(words[0], words.data());
    _exit(127);
  }
  const int error = errno;
  if (log) close(output);
  if (!log) {
    for (const auto& ends : pipes) close(ends[1]);
    relays_ = {{pipes[0][0], stdout}, {pipes[1][0], stderr}};
  }
  HEADWAY_CHECK(child_ > 0, IoError, fmt::format("cannot start {}: {}", command[0], std::strerror(error)));
}

RankLauncher::~RankLauncher() {
  end_with_process(0);
  for (const Relay& relay : relays_) close(relay.from);
  std::error_code ignored;
  if (!shared_folder_.empty()) fs::remove_all(shared_folder_, ignored);
}

void RankLauncher::relay(int wait_ms) {
  std::vector<pollfd> ready;
  for (const Relay& relay : relays_) ready.push_back({.fd = relay.from, .events = POLLIN, .revents = 0});
  poll(ready.data(), ready.size(), wait_ms);
  std::array<char, 1 << 16> text;
  for (size_t i = ready.size(); i-- > 0;) {
    if (ready[i].revents == 0) continue;
    const ssize_t got = read(relays_[i].from, text.data(), text.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {  // nobody writes there any more
      close(relays_[i].from);
      relays_.erase(relays_.begin() + static_cast<std::ptrdiff_t>(i));
      continue;
    }
    // What cannot be written is lost; main reports it at the end.
    std::fwrite(text.data(), 1, static_cast<size_t>(got), relays_[i].to);
    std::fflush(relays_[i].to);
  }
}

int RankLauncher::wait(const std::function<void()>& meanwhile) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kAgain =
      std::chrono::seconds(1);  // ranks that were starting have not heard the last request
  constexpr int kWait_ms = 50;
  Clock::time_point asked = Clock::now() - kAgain;
  end_with_process(child_);
  for (int status = 0;;) {
    const pid_t ended = waitpid(child_, &status, WNOHANG);
    if (ended == child_) {
      relay(0);
      relay(0);  // what stands behind a full buffer
      const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      // A rank that does not listen yet has not begun: the request has ended it.
      return code == 128 + SIGUSR1 && stop_signal_received() != 0
                 ? static_cast<int>(ExitCode::stopped_on_request)
                 : code;
    }
    // Where SIGCHLD is ignored, the kernel keeps no status and waitpid fails once the child has ended.
    HEADWAY_CHECK(ended >= 0, IoError,
                  fmt::format("cannot wait for process {}: {}", child_, std::strerror(errno)));
    if (stop_signal_received() != 0 && Clock::now() - asked >= kAgain) {
      kill(child_, SIGUSR1);
      asked = Clock::now();
    }
    meanwhile();
    relay(kWait_ms);
  }
}

}  // namespace headway
