#include "trainers/run_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/text/printable.h"
#include "trainers/run_record.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

// Everything a run writes; a folder that has any of it is a used one. The record comes last: what is left of
// an interrupted deletion still counts as a run.
constexpr const char* kOwnNames[] = {
    "recipe.toml", "recipe.resolved.toml", "metrics.jsonl", "metrics.csv", "log.txt",
    "logs",        "checkpoints",          "samples",       kRunRecordName};

bool is_used(const fs::path& folder) {
  return std::ranges::any_of(kOwnNames, [&](const char* name) {
    std::error_code absent;
    return fs::exists(fs::symlink_status(folder / name, absent));
  });
}

}  // namespace

RunFolder::RunFolder(fs::path folder, UsedFolder used) : folder_(std::move(folder)), used_(used) {
  if (used == UsedFolder::replace && is_used(folder_)) {
    const std::string problem = RunRecord::problem_of(folder_);
    HEADWAY_CHECK(
        problem.empty(), ConfigError,
        fmt::format("run.force_new replaces runs only, and {} holds none: {}", folder_.string(), problem));
  }
  std::error_code error;
  fs::create_directories(folder_, error);
  HEADWAY_CHECK(!error, IoError, fmt::format("cannot create {}: {}", folder_.string(), error.message()));
  lock_ = std::make_unique<FolderLock>(folder_);
  HEADWAY_CHECK(used != UsedFolder::refuse || !is_used(folder_), ConfigError,
                fmt::format("{} holds a run already: choose another run.name, or continue it with "
                            "checkpoint.resume = \"auto\", or replace it with run.force_new = true",
                            folder_.string()));
}

void RunFolder::clear() const {
  if (used_ != UsedFolder::replace) return;
  for (const char* name : kOwnNames) {
    std::error_code error;
    fs::remove_all(folder_ / name, error);
    HEADWAY_CHECK(!error, IoError,
                  fmt::format("cannot delete {}: {}", (folder_ / name).string(), error.message()));
  }
}

void RunFolder::open() {
  for (const char* sub : {"checkpoints", "samples", "logs"}) {
    std::error_code error;
    fs::create_directories(folder_ / sub, error);
    HEADWAY_CHECK(!error, IoError,
                  fmt::format("cannot create {}: {}", (folder_ / sub).string(), error.message()));
  }
  for (const fs::path& path : {folder_, folder_ / "samples"}) remove_abandoned_temporaries(path);
  log_ = std::fopen((folder_ / "log.txt").c_str(), "ab");
  HEADWAY_CHECK(log_, IoError,
                fmt::format("cannot write {}: {}", (folder_ / "log.txt").string(), std::strerror(errno)));
}

RunFolder::~RunFolder() {
  if (log_) std::fclose(log_);
}

void RunFolder::say(std::string_view line) {
  const std::string text = printable_lines(line) + "\n";
  // A terminal that is gone or a full disk must not end a run that can still save: main reports a stdout
  // that failed, and the metrics and checkpoints report a disk.
  for (std::FILE* file : {stdout, log_}) {
    std::fwrite(text.data(), 1, text.size(), file);
    std::fflush(file);
  }
}

void RunFolder::write_text(std::string_view name, std::string_view text) const {
  write_file_atomically(folder_ / name, text);
}

}  // namespace headway
