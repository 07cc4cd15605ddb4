#include "trainers/checkpoint_folder.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <sstream>

#include "core/comm/agreement.h"
#include "core/io/atomic_file.h"

namespace headway {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-", kSuffix = ".h5", kDoomed = ".doomed";

std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  int64_t step = -1;
  const char* const end = name.data() + name.size() - kSuffix.size();
  const auto parsed = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (parsed.ec != std::errc() || parsed.ptr != end || step < 0) return std::nullopt;
  return step;
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code missing;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, missing))
    files.push_back(entry.path());
  return files;
}

// By temporary name and rename, so that `latest` exists at every moment.
void point_latest(const fs::path& folder, const std::string& name, std::vector<std::string>& warnings) {
  const fs::path temporary = folder / fmt::format(".latest.tmp.{}", getpid());
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_symlink(name, temporary, error);
  if (!error) fs::rename(temporary, folder / "latest", error);
  if (error)
    warnings.push_back(
        fmt::format("{}: cannot be updated: {}", (folder / "latest").string(), error.message()));
}

// Null when no file verifies.
std::unique_ptr<Hdf5Reader> open_newest_valid(const fs::path& folder, std::vector<std::string>& rejected) {
  for (const fs::path& path : list_checkpoints(folder)) {
    try {
      auto reader = std::make_unique<Hdf5Reader>(path);
      reader->verify();
      return reader;
    } catch (const CheckpointError& error) {
      rejected.push_back(error.what());
    }
  }
  return nullptr;
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

NewestValid newest_valid_checkpoint(const fs::path& folder) {
  NewestValid result;
  if (const std::unique_ptr<Hdf5Reader> reader = open_newest_valid(folder, result.rejected))
    result.path = reader->source();
  return result;
}

std::unique_ptr<Hdf5Reader> open_checkpoint(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return std::make_unique<Hdf5Reader>(path);
  const fs::path folder = fs::is_directory(path / "checkpoints", ignored) ? path / "checkpoints" : path;
  // A running run may delete files between our listing and our opening them; the next listing has newer ones.
  constexpr int kTries = 5;
  std::vector<std::string> rejected;
  for (int i = 0; i < kTries; ++i) {
    rejected.clear();
    if (std::unique_ptr<Hdf5Reader> reader = open_newest_valid(folder, rejected)) return reader;
    if (rejected.empty()) break;
  }
  std::string message = fmt::format("{}: no usable checkpoint there", folder.string());
  for (const std::string& why : rejected) message += "\n  " + why;
  throw CheckpointError(message);
}

std::vector<std::string> remove_leftovers(const fs::path& folder) {
  std::vector<std::string> removed;
  for (const fs::path& path : files_in(folder)) {
    const std::string name = path.filename().string();
    const bool is_doomed = name.starts_with('.') && name.ends_with(kDoomed);
    std::error_code error;
    if ((is_doomed || is_abandoned_temporary(path)) && fs::remove(path, error)) removed.push_back(name);
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
    : folder_(std::move(folder)), retention_(retention), comm_(comm), stream_(stream) {
  agree(comm_, [&] {
    if (comm_.rank() != 0) return;
    std::error_code error;
    fs::create_directories(folder_, error);
    HEADWAY_CHECK(!error, IoError, fmt::format("{}: cannot be made: {}", folder_.string(), error.message()));
    remove_leftovers(folder_);
  });
}

NewestValid CheckpointFolder::newest_valid() {
  std::string lines;  // of rank 0: the path, perhaps empty, then the rejections
  agree(comm_, [&] {
    if (comm_.rank() != 0) return;
    const NewestValid found = newest_valid_checkpoint(folder_);
    lines = found.path.value_or(fs::path()).string();
    for (const std::string& why : found.rejected) lines += "\n" + why;
  });
  std::istringstream answer(broadcast_text(comm_, lines, 0));
  NewestValid result;
  std::string line;
  if (std::getline(answer, line) && !line.empty()) result.path = line;
  while (std::getline(answer, line)) result.rejected.push_back(line);
  return result;
}

SaveReport CheckpointFolder::save(std::span<const NamedState> states, const RunInfo& info) {
  const auto start = std::chrono::steady_clock::now();
  SaveReport report;
  report.path = folder_ / checkpoint_name(info.step);
  agree(comm_, [&] {
    if (comm_.rank() == 0) save_checkpoint(report.path, states, info, stream_);
  });
  if (comm_.rank() == 0) {
    report.warnings = prune_checkpoints(folder_, info.step, retention_);
    point_latest(folder_, report.path.filename().string(), report.warnings);
  }
  std::error_code error;
  const uintmax_t bytes = fs::file_size(report.path, error);
  report.bytes = error ? 0 : bytes;
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

RunInfo CheckpointFolder::load(const fs::path& path, std::span<const NamedState> states) {
  RunInfo info;
  agree(comm_, [&] { info = load_checkpoint(path, states, stream_); });
  return info;
}

}  // namespace headway
