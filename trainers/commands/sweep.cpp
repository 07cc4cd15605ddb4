// headway sweep FILE, headway report FILE
#include "trainers/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <map>
#include <string>
#include <utility>

#include "core/io/folder_lock.h"
#include "core/stop_signal.h"
#include "trainers/commands/command.h"
#include "trainers/launch_ranks.h"
#include "trainers/progress.h"
#include "trainers/report.h"
#include "trainers/run_record.h"

namespace headway {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::vector<std::string> arguments_of(const Arm& arm, bool resumes) {
  std::vector<std::string> arguments{"train", arm.recipe.string()};
  for (const auto& [key, setting] : arm.overrides) arguments.push_back(as_override(key, setting));
  arguments.push_back("run.force_new=false");
  arguments.push_back(resumes ? "checkpoint.resume=auto" : "checkpoint.resume=never");
  return arguments;
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

/// Says of each arm as soon as its run has read its data, long before the report, that these are not those of
/// the first run's arm of the same seed and other grid keys, with which it will be compared. (Seeds of a task
/// learn from different examples.)
class DataWatch {
 public:
  explicit DataWatch(const Sweep& sweep) : sweep_(sweep) {}

  /// To be called until the arm has ended: does nothing until its record names the data, and nothing after
  /// that.
  void look_at(const Arm& arm) {
    if (seen_ == &arm) return;
    const DataDigests data = RunRecord::digests_of(sweep_.run_folder(arm));
    if (data.held_out.empty()) return;
    seen_ = &arm;
    const auto [first, is_first] = first_.try_emplace(arm.name.substr(arm.run.size()), arm.name, data);
    if (is_first) return;
    const auto& [name_of_first, data_of_first] = first->second;
    if (const std::string why = data_difference(data, data_of_first); !why.empty()) {
      fmt::print("note: {} cannot be compared with {}: {}\n", arm.name, name_of_first, why);
      std::fflush(stdout);
    }
  }

 private:
  const Sweep& sweep_;
  const Arm* seen_ = nullptr;
  std::map<std::string, std::pair<std::string, DataDigests>> first_;  // by what the grid gives the arms
};

ExitCode run_sweep(const std::string& path, int ranks) {
  const Sweep sweep = load_sweep(path);
  std::error_code error;
  fs::create_directories(sweep.folder / "logs", error);
  HEADWAY_CHECK(!error, IoError,
                fmt::format("cannot create {}: {}", (sweep.folder / "logs").string(), error.message()));
  const FolderLock lock(sweep.folder);
  const size_t count = sweep.arms.size();
  std::vector<std::string> failures;
  double seconds = 0;
  size_t run_now = 0;
  const SweepResults earlier(sweep);
  DataWatch data(sweep);
  for (size_t i = 0; i < count; ++i) {
    const Arm& arm = sweep.arms[i];
    const std::string status = status_of(sweep, arm);
    if (status == "finished") {
      fmt::print("[{}/{}] {} is finished already{}\n", i + 1, count, arm.name, loss_text(earlier, arm));
      data.look_at(arm);
      continue;
    }
    fmt::print("[{}/{}] {} {}\n", i + 1, count, arm.name, status.empty() ? "starts" : "goes on");
    std::fflush(stdout);
    const auto begin = Clock::now();
    const fs::path log = sweep.folder / "logs" / (arm.name + ".txt");
    const int code =
        RankLauncher(ranks, arguments_of(arm, !status.empty()), log).wait([&] { data.look_at(arm); });
    data.look_at(arm);
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
      fmt::print("[{}/{}] failed: {}\n", i + 1, count, failures.back());
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

Action add_sweep_options(OptionList verb) {
  struct Options {
    std::string file;
    int ranks = 1;
  };
  const auto options = std::make_shared<Options>();
  verb.add_footer(
      "Every arm is a run of its own in sweeps/<name>/runs/<arm>. Finished arms are skipped and interrupted "
      "ones\n"
      "go on, so the same command may be given again at any time; a failed arm does not stop the others.\n"
      "Example:\n"
      "  headway sweep recipes/sweeps/variants.toml -n 2");
  verb.add("file", options->file, "sweep (TOML)").required();
  verb.add("-n,--ranks", options->ranks, "ranks of each run").integer_from(1, 1'000'000);
  return [options] { return run_sweep(options->file, options->ranks); };
}

Action add_report_options(OptionList verb) {
  const auto file = std::make_shared<std::string>();
  verb.add_footer(
      "Writes report.html and results.csv into the sweep's folder, also while it is running.\n"
      "Example:\n"
      "  headway report recipes/sweeps/variants.toml");
  verb.add("file", *file, "sweep (TOML)").required();
  return [file] {
    const Sweep sweep = load_sweep(*file);
    const SweepResults results(sweep);
    write_report(results);
    fmt::print("{}wrote {} and results.csv\n", comparison_text(results),
               (sweep.folder / "report.html").string());
    return ExitCode::ok;
  };
}

[[maybe_unused]] const bool sweep_is_registered = register_command({.name = "sweep",
                                                                    .summary = "Run every arm of a sweep",
                                                                    .add_options = add_sweep_options,
                                                                    .saves_on_stop = true});
[[maybe_unused]] const bool report_is_registered =
    register_command({.name = "report",
                      .summary = "Compare the arms of a sweep in a page",
                      .add_options = add_report_options});

}  // namespace
}  // namespace headway
