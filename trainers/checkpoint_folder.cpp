#include "trainers/checkpoint_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <sstream>
#include <thread>

#include "core/comm/agreement.h"
#include "core/io/atomic_file.h"

namespace headway {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-", kSuffix = ".h5", kDoomed = ".doomed", kBest = "best.h5";
constexpr const char* kLatest = "latest";
constexpr const char* kAside = "aside";

std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  int64_t step = -1;
  const char* const end = name.data() + name.size() - kSuffix.size();
  const auto parsed = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (parsed.ec != std::errc() || parsed.ptr != end || step < 0) return std::nullopt;
  return step;
}

// A folder that cannot be read is not an empty one.
std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) files.push_back(entry->path());
  HEADWAY_CHECK(!error || error == std::errc::no_such_file_or_directory, CheckpointError,
                fmt::format("{}: cannot be read: {}", folder.string(), error.message()));
  return files;
}

// By temporary name and rename, so that `latest` exists at every moment.
void point_latest(const fs::path& folder, const std::string& name, std::vector<std::string>& warnings) {
  const fs::path temporary = folder / fmt::format(".latest.tmp.{}", getpid());
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_symlink(name, temporary, error);
  if (!error) fs::rename(temporary, folder / kLatest, error);
  if (error)
    warnings.push_back(
        fmt::format("{}: cannot be updated: {}", (folder / kLatest).string(), error.message()));
}

// Other programs lock a file for a moment, and network file systems have moments of their own: such a file is
// tried again before it counts as one that cannot be read.
void wait_while_busy(const fs::path& path) {
  constexpr std::chrono::milliseconds kPatience(5000), kPause(100);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    // HDF5's own lock, which h5py takes too.
    const bool is_free = descriptor >= 0 && flock(descriptor, LOCK_SH | LOCK_NB) == 0;
    const int reason = errno;
    if (descriptor >= 0) close(descriptor);
    const bool is_passing = reason == EWOULDBLOCK || reason == EIO || reason == ESTALE;
    if (is_free || !is_passing) return;
    std::this_thread::sleep_for(kPause);
  }
}

// Null when no file verifies. What a running run deletes between our listing and our opening it is no reason
// to reject anything: the next listing has newer ones.
std::unique_ptr<Hdf5Reader> open_newest_valid(const fs::path& folder, const CheckpointCheck& check,
                                              std::vector<std::string>& rejected) {
  constexpr int kMostListings = 1000;
  for (int i = 0; i < kMostListings; ++i) {
    rejected.clear();
    bool was_deleted = false;
    for (const fs::path& path : resume_candidates(folder)) {
      try {
        wait_while_busy(path);
        auto reader = std::make_unique<Hdf5Reader>(path);
        reader->verify();
        if (check) check(*reader);
        return reader;
      } catch (const CheckpointError& error) {
        std::error_code absent;
        if (fs::exists(path, absent))
          rejected.push_back(error.what());
        else
          was_deleted = true;
      }
    }
    if (!was_deleted) break;
  }
  return nullptr;
}

// Of best.h5; none where there is no such file or a damaged one, which the next best one replaces.
std::optional<RunInfo> best_in(const fs::path& folder) {
  std::error_code absent;
  if (!fs::exists(folder / kBest, absent)) return std::nullopt;
  try {
    Hdf5Reader reader(folder / kBest);
    return read_run_info(reader);
  } catch (const CheckpointError&) {
    return std::nullopt;
  }
}

std::vector<fs::path> later_than(const fs::path& folder, int64_t step) {
  std::vector<fs::path> later;
  for (const fs::path& path : list_checkpoints(folder))
    if (step_of(path.filename().string()).value_or(0) > step) later.push_back(path);
  if (const std::optional<RunInfo> best = best_in(folder); best && best->step > step)
    later.push_back(folder / kBest);
  return later;
}

}  // namespace

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:08d}{}", kPrefix, step, kSuffix); }

std::vector<fs::path> list_checkpoints(const fs::path& folder) {
  std::vector<std::pair<int64_t, fs::path>> found;
  for (const fs::path& path : files_in(folder))
    if (const std::optional<int64_t> step = step_of(path.filename().string()))
      found.emplace_back(*step, path);
  std::ranges::sort(found, std::greater<>());
  std::vector<fs::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::vector<fs::path> resume_candidates(const fs::path& folder) {
  std::vector<fs::path> paths = list_checkpoints(folder);
  std::error_code absent;
  const std::optional<int64_t> latest =
      step_of(fs::read_symlink(folder / kLatest, absent).filename().string());
  if (latest)
    std::stable_partition(paths.begin(), paths.end(),
                          [&](const fs::path& path) { return step_of(path.filename().string()) <= latest; });
  return paths;
}

bool had_checkpoints(const fs::path& folder) {
  std::error_code absent;
  if (fs::is_symlink(folder / kLatest, absent)) return true;
  return std::ranges::any_of(files_in(folder / kAside), [](const fs::path& path) {
    return step_of(path.filename().string()).has_value();
  });
}

std::vector<fs::path> set_aside(const fs::path& folder, int64_t step) {
  std::vector<fs::path> moved;
  for (const fs::path& path : later_than(folder, step)) {
    const std::string name = path.filename().string();
    const fs::path aside = folder / kAside;
    std::error_code error;
    fs::create_directory(aside, error);
    fs::path target = aside / name;
    for (int i = 2; fs::exists(fs::symlink_status(target)); ++i)
      target = aside / fmt::format("{}-{}{}", path.stem().string(), i, kSuffix);
    if (!error) fs::rename(path, target, error);
    HEADWAY_CHECK(
        !error, IoError,
        fmt::format("{}: cannot be moved to {}: {}", path.string(), target.string(), error.message()));
    moved.push_back(target);
  }
  if (moved.empty()) return moved;
  const std::vector<fs::path> kept = list_checkpoints(folder);
  std::vector<std::string> problems;
  std::error_code ignored;
  if (kept.empty())
    fs::remove(folder / kLatest, ignored);
  else
    point_latest(folder, kept.front().filename().string(), problems);
  HEADWAY_CHECK(problems.empty(), IoError, problems.front());
  return moved;
}

NewestValid newest_valid_checkpoint(const fs::path& folder) {
  NewestValid result;
  if (const std::unique_ptr<Hdf5Reader> reader = open_newest_valid(folder, {}, result.rejected))
    result.path = reader->source();
  return result;
}

fs::path best_checkpoint(const fs::path& named) {
  std::error_code ignored;
  HEADWAY_CHECK(!fs::is_regular_file(named, ignored), ConfigError,
                fmt::format("{} is a file: expected the folder of a run whose best checkpoint is meant",
                            named.string()));
  const fs::path best =
      (fs::is_directory(named / "checkpoints", ignored) ? named / "checkpoints" : named) / kBest;
  HEADWAY_CHECK(
      fs::exists(best, ignored), CheckpointError,
      fmt::format("{}: there is none: expected a run with checkpoint.keep_best = true that has been "
                  "evaluated",
                  best.string()));
  return best;
}

std::unique_ptr<Hdf5Reader> open_checkpoint(const fs::path& path, const CheckpointCheck& check) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    auto reader = std::make_unique<Hdf5Reader>(path);
    if (check) check(*reader);
    return reader;
  }
  const fs::path folder = fs::is_directory(path / "checkpoints", ignored) ? path / "checkpoints" : path;
  std::vector<std::string> rejected;
  if (std::unique_ptr<Hdf5Reader> reader = open_newest_valid(folder, check, rejected)) return reader;
  std::string message = fmt::format("{}: no usable checkpoint there", folder.string());
  for (const std::string& why : rejected) message += "\n  " + why;
  throw CheckpointError(message);
}

std::vector<std::string> remove_leftovers(const fs::path& folder) {
  std::vector<std::string> removed = remove_abandoned_temporaries(folder);
  for (const fs::path& path : files_in(folder)) {
    const std::string name = path.filename().string();
    const bool is_doomed = name.starts_with('.') && name.ends_with(kDoomed);
    std::error_code error;
    if (is_doomed && fs::remove(path, error)) removed.push_back(name);
  }
  return removed;
}

std::vector<std::string> prune_checkpoints(const fs::path& folder, int64_t current_step,
                                           const Retention& keep) {
  std::vector<std::string> problems;
  if (keep.keep_last <= 0) return problems;
  int64_t num_recent = 0;
  for (const fs::path& path : list_checkpoints(folder)) {
    const int64_t step = step_of(path.filename().string()).value_or(0);
    if (step > current_step || ++num_recent <= keep.keep_last) continue;
    if (keep.keep_every > 0 && step % keep.keep_every == 0) continue;
    const fs::path doomed = folder / fmt::format(".{}{}", path.filename().string(), kDoomed);
    std::error_code error;
    fs::rename(path, doomed, error);
    if (!error) fs::remove(doomed, error);
    if (error) problems.push_back(fmt::format("{}: cannot be deleted: {}", path.string(), error.message()));
  }
  return problems;
}

CheckpointFolder::CheckpointFolder(fs::path folder, const Retention& retention, Communicator& comm,
                                   Stream& stream)
    : folder_(std::move(folder)), retention_(retention), comm_(comm), stream_(stream) {}

std::vector<fs::path> CheckpointFolder::open(int64_t step) {
  std::vector<fs::path> aside;
  agree(comm_, [&] {
    if (comm_.rank() != 0) return;
    std::error_code error;
    fs::create_directories(folder_, error);
    HEADWAY_CHECK(!error, IoError, fmt::format("{}: cannot be made: {}", folder_.string(), error.message()));
    remove_leftovers(folder_);
    aside = set_aside(folder_, step);
  });
  return aside;
}

bool CheckpointFolder::holds(const fs::path& path) {
  std::error_code absent;
  const int64_t is_here = fs::equivalent(path.parent_path(), folder_, absent);
  // Ranks may see different disks; rank 0's is the one that is written.
  return all_reduce_values(comm_, std::array{comm_.rank() == 0 ? is_here : 0}, Reduce::max)[0] != 0;
}

std::optional<Resumption> CheckpointFolder::load_newest(std::span<const NamedState> states,
                                                        const Objection& objection) {
  std::string lines;  // of rank 0
  agree(comm_, [&] {
    if (comm_.rank() != 0) return;
    for (const fs::path& path : resume_candidates(folder_)) lines += path.filename().string() + "\n";
  });
  std::istringstream names(broadcast_text(comm_, lines, 0));
  Resumption result;
  for (std::string name; std::getline(names, name);) {
    result.path = folder_ / name;
    std::optional<RunInfo> info;
    std::string why;
    try {
      info = try_to_load(result.path, states, objection, why);
    } catch (const CheckpointError& error) {
      result.rejected.push_back(error.what());
      continue;
    }
    HEADWAY_CHECK(info, CheckpointError, why);
    result.info = std::move(*info);
    return result;
  }
  if (result.rejected.empty()) return std::nullopt;
  std::string message = fmt::format(
      "{}: no checkpoint can be read, so the run does not go on; run.force_new = true would start over and "
      "delete them",
      folder_.string());
  for (const std::string& why : result.rejected) message += "\n  " + why;
  throw CheckpointError(message);
}

RunInfo CheckpointFolder::load(const fs::path& path, std::span<const NamedState> states,
                               const Objection& objection) {
  std::string why;
  std::optional<RunInfo> info = try_to_load(path, states, objection, why);
  HEADWAY_CHECK(info, CheckpointError, why);
  return std::move(*info);
}

std::optional<RunInfo> CheckpointFolder::try_to_load(const fs::path& path, std::span<const NamedState> states,
                                                     const Objection& objection, std::string& why) {
  std::optional<RunInfo> info;
  agree(comm_, [&] {
    wait_while_busy(path);
    Hdf5Reader reader(path);
    RunInfo stored = read_run_info(reader);
    why = objection(reader, stored);
    if (!why.empty()) return;
    load_checkpoint(reader, states, stream_);
    info = std::move(stored);
  });
  return info;
}

SaveReport CheckpointFolder::save(std::span<const NamedState> states, const RunInfo& info) {
  SaveReport report = write(folder_ / checkpoint_name(info.step), states, info);
  if (comm_.rank() == 0) {
    report.warnings = prune_checkpoints(folder_, info.step, retention_);
    point_latest(folder_, report.path.filename().string(), report.warnings);
  }
  return report;
}

SaveReport CheckpointFolder::save_not_finite(std::span<const NamedState> states, const RunInfo& info) {
  agree(comm_, [&] {
    if (comm_.rank() != 0) return;
    const std::vector<fs::path> in_force = list_checkpoints(folder_);
    if (in_force.size() > 1 && step_of(in_force.front().filename().string()) == info.step)
      set_aside(folder_, info.step - 1);
  });
  return write(folder_ / kAside / fmt::format("{}{:08d}-not-finite{}", kPrefix, info.step, kSuffix), states,
               info);
}

SaveReport CheckpointFolder::save_best(std::span<const NamedState> states, const RunInfo& info) {
  return write(folder_ / kBest, states, info);
}

std::optional<RunInfo> CheckpointFolder::best() {
  std::optional<RunInfo> info;
  agree(comm_, [&] { info = best_in(folder_); });
  return info;
}

SaveReport CheckpointFolder::write(const fs::path& path, std::span<const NamedState> states,
                                   const RunInfo& info) {
  const auto start = std::chrono::steady_clock::now();
  SaveReport report;
  report.path = path;
  agree_on_long_work(comm_, [&] {
    if (comm_.rank() != 0) return;
    std::error_code ignored;  // saving says what is wrong
    if (path.parent_path() != folder_) fs::create_directory(path.parent_path(), ignored);
    save_checkpoint(path, states, info, stream_);
  });
  std::error_code error;
  const uintmax_t bytes = fs::file_size(path, error);
  report.bytes = error ? 0 : bytes;
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace headway
