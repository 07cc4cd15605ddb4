#include "core/io/limited_child.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>

#include "core/error.h"

namespace headway {
namespace {

constexpr size_t kMaxAnswerBytes = size_t{64} << 20;
constexpr char kResult = 'R', kFailure = 'F';  // first byte of the child's answer

uint64_t mapped_bytes() {
  uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

void limit(__rlimit_resource resource, uint64_t value) {
  const rlimit both{value, value};
  setrlimit(resource, &both);
}

[[noreturn]] void answer_and_leave(int pipe, const ChildLimits& limits,
                                   const std::function<std::string()>& work) {
  std::signal(SIGALRM, SIG_DFL);
  alarm(static_cast<unsigned>(limits.wall_seconds));
  limit(RLIMIT_CPU, limits.cpu_seconds);
  limit(RLIMIT_AS, mapped_bytes() + limits.extra_memory_bytes);
  limit(RLIMIT_CORE, 0);
  std::string answer;
  try {
    answer = kResult + work();
  } catch (const std::exception& error) {
    answer = kFailure + std::string(error.what());
  }
  for (size_t sent = 0; sent < answer.size();) {
    const ssize_t n = write(pipe, answer.data() + sent, answer.size() - sent);
    if (n <= 0) break;
    sent += static_cast<size_t>(n);
  }
  _exit(0);
}

}  // namespace

std::string run_in_limited_child(const ChildLimits& limits, const std::function<std::string()>& work) {
  std::array<int, 2> ends{};
  HEADWAY_CHECK(pipe(ends.data()) == 0, IoError, fmt::format("cannot make a pipe: {}", std::strerror(errno)));
  const pid_t child = fork();
  if (child == 0) answer_and_leave(ends[1], limits, work);
  close(ends[1]);
  std::string answer;
  std::array<char, 65536> buffer;
  for (ssize_t n = 0; child > 0 && answer.size() < kMaxAnswerBytes;) {
    n = read(ends[0], buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    answer.append(buffer.data(), static_cast<size_t>(n));
  }
  close(ends[0]);
  HEADWAY_CHECK(child > 0, IoError, fmt::format("cannot start a process: {}", std::strerror(errno)));
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    const bool too_long = signal == SIGALRM || signal == SIGXCPU || signal == SIGKILL;
    throw CheckpointError(too_long ? "reading it took longer than is allowed"
                                   : fmt::format("reading it crashed ({})", strsignal(signal)));
  }
  HEADWAY_CHECK(!answer.empty(), CheckpointError, "reading it ended without an answer");
  if (answer[0] == kFailure) throw CheckpointError(answer.substr(1));
  return answer.substr(1);
}

std::string read_in_limited_child(const std::filesystem::path& file, uint64_t file_bytes,
                                  const std::function<std::string()>& work) {
  // A slow disk delivers 20 MB/s; a tensor is at most as large as the file.
  const ChildLimits limits{.cpu_seconds = 30 + file_bytes / 100'000'000,
                           .wall_seconds = 60 + file_bytes / 10'000'000,
                           .extra_memory_bytes = (uint64_t{1} << 30) + 2 * file_bytes};
  try {
    return run_in_limited_child(limits, work);
  } catch (const CheckpointError& error) {
    const std::string why = error.what();
    throw CheckpointError(why.starts_with(file.string()) ? why : file.string() + ": " + why);
  }
}

}  // namespace headway
