// headway sweep FILE, headway report FILE
#include "trainers/sweep.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <thread>

#include "core/comm/launch.h"
#include "core/io/folder_lock.h"
#include "trainers/commands/command.h"
#include "trainers/progress.h"
#include "trainers/report.h"
#include "trainers/stop_signal.h"

namespace headway {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::vector<std::string> command_of(const Arm& arm, int ranks, bool resumes) {
  std::vector<std::string> command;
  if (ranks > 1) {
    command = {"mpirun", "-np", std::to_string(ranks), "--bind-to", "none"};
    if (geteuid() == 0) command.push_back("--allow-run-as-root");
    if (ranks > read_cores().allowed) command.push_back("--oversubscribe");
  }
  command.push_back(fs::read_symlink("/proc/self/exe").string());
  command.insert(command.end(), {"train", arm.recipe.string()});
  for (const auto& [key, setting] : arm.overrides) command.push_back(as_override(key, setting));
  command.push_back("run.force_new=false");
  command.push_back(resumes ? "checkpoint.resume=auto" : "checkpoint.resume=never");
  return command;
}

/// In a process group of its own, so that a Ctrl-C reaches the sweep alone, which then asks the arm to save.
pid_t start(const std::vector<std::string>& command, const fs::path& log, int ranks) {
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const int output = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  HEADWAY_CHECK(output >= 0, IoError, fmt::format("cannot write {}: {}", log.string(), std::strerror(errno)));
  const std::string threads = std::to_string(std::max(1, read_cores().allowed / ranks));
  const pid_t child = fork();
  if (child == 0) {
    setpgid(0, 0);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    setenv("OMP_NUM_THREADS", threads.c_str(), 0);
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
  close(output);
  HEADWAY_CHECK(child > 0, IoError, fmt::format("cannot start {}: {}", command[0], std::strerror(errno)));
  return child;
}

/// The exit status, 128 + signal for a killed arm. A stop request is passed on once.
int wait_for(pid_t child) {
  bool asked = false;
  for (int status = 0;;) {
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (stop_signal_received() != 0 && !asked) {
      kill(child, SIGUSR1);
      asked = true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

std::string last_line(const fs::path& path) {
  std::ifstream file(path);
  std::string last;
  for (std::string line; std::getline(file, line);)
    if (!line.empty()) last = line;
  return last;
}

/// " | validation loss 2.1312", also of an arm that has no more to do; empty where it has evaluated nothing.
std::string loss_text(const SweepResults& results, const Arm& arm) {
  const auto result = std::ranges::find(results.arms, &arm, &ArmResult::arm);
  const double loss = result->val_loss();
  return std::isnan(loss) ? "" : fmt::format(" | validation loss {:.4f}", loss);
}

ExitCode run_sweep(const std::string& path, int ranks) {
  const Sweep sweep = load_sweep(path);
  std::error_code error;
  fs::create_directories(sweep.folder / "logs", error);
  HEADWAY_CHECK(!error, IoError,
                fmt::format("cannot create {}: {}", (sweep.folder / "logs").string(), error.message()));
  const FolderLock lock(sweep.folder);
  catch_stop_signals();
  const size_t count = sweep.arms.size();
  std::vector<std::string> failures;
  double seconds = 0;
  size_t run_now = 0;
  for (size_t i = 0; i < count; ++i) {
    const Arm& arm = sweep.arms[i];
    const std::string status = status_of(sweep, arm);
    if (status == "finished") {
      fmt::print("[{}/{}] {} is finished already{}\n", i + 1, count, arm.name,
                 loss_text(SweepResults(sweep), arm));
      continue;
    }
    fmt::print("[{}/{}] {} {}\n", i + 1, count, arm.name, status.empty() ? "starts" : "goes on");
    std::fflush(stdout);
    const auto begin = Clock::now();
    const fs::path log = sweep.folder / "logs" / (arm.name + ".txt");
    const int code = wait_for(start(command_of(arm, ranks, !status.empty()), log, ranks));
    const double took = std::chrono::duration<double>(Clock::now() - begin).count();
    const SweepResults results(sweep);
    write_report(results);
    if (stop_signal_received() != 0) {
      fmt::print("stopped on request; run the same command again to go on\n");
      return ExitCode::stopped_on_request;
    }
    seconds += took;
    ++run_now;
    const double left = seconds / static_cast<double>(run_now) * static_cast<double>(count - i - 1);
    if (code != 0) {
      failures.push_back(fmt::format("{}: exit status {}, {}", arm.name, code, last_line(log)));
      fmt::print("[{}/{}] {} failed: {}\n", i + 1, count, arm.name, failures.back());
    } else {
      fmt::print("[{}/{}] {}{} | took {} | about {} left\n", i + 1, count, arm.name, loss_text(results, arm),
                 format_duration(took), format_duration(left));
    }
  }
  const SweepResults results(sweep);
  write_report(results);
  fmt::print("{}report: {}\n", comparison_text(results), (sweep.folder / "report.html").string());
  if (failures.empty()) return ExitCode::ok;
  throw Error(ExitCode::unexpected,
              fmt::format("{} of {} arms failed; the first: {}", failures.size(), count, failures[0]));
}

void add_sweep_options(CLI::App& verb, Action& action) {
  struct Options {
    std::string file;
    int ranks = 1;
  };
  const auto options = std::make_shared<Options>();
  verb.footer(
      "Every arm is a run of its own in sweeps/<name>/runs/<arm>. Finished arms are skipped and interrupted "
      "ones\n"
      "go on, so the same command may be given again at any time; a failed arm does not stop the others.\n"
      "Example:\n"
      "  headway sweep recipes/sweeps/variants.toml -n 2");
  verb.add_option("file", options->file, "sweep (TOML)")->required();
  verb.add_option("-n,--ranks", options->ranks, "ranks of each run")->check(CLI::Range(1, 1000000));
  verb.callback(
      [options, &action] { action = [options] { return run_sweep(options->file, options->ranks); }; });
}

void add_report_options(CLI::App& verb, Action& action) {
  const auto file = std::make_shared<std::string>();
  verb.footer(
      "Writes report.html and results.csv into the sweep's folder, also while it is running.\n"
      "Example:\n"
      "  headway report recipes/sweeps/variants.toml");
  verb.add_option("file", *file, "sweep (TOML)")->required();
  verb.callback([file, &action] {
    action = [file] {
      const Sweep sweep = load_sweep(*file);
      const SweepResults results(sweep);
      write_report(results);
      fmt::print("{}wrote {} and results.csv\n", comparison_text(results),
                 (sweep.folder / "report.html").string());
      return ExitCode::ok;
    };
  });
}

[[maybe_unused]] const bool sweep_is_registered = register_command(
    {.name = "sweep", .summary = "Run every arm of a sweep", .add_options = add_sweep_options});
[[maybe_unused]] const bool report_is_registered =
    register_command({.name = "report",
                      .summary = "Compare the arms of a sweep in a page",
                      .add_options = add_report_options});

}  // namespace
}  // namespace headway
