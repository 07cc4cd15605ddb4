#include "trainers/run_folder.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

// Everything a run writes; a folder that has any of it is a used one.
constexpr const char* kOwnNames[] = {"run.json",      "recipe.toml", "recipe.resolved.toml",
                                     "metrics.jsonl", "metrics.csv", "log.txt",
                                     "logs",          "checkpoints", "samples"};

[[noreturn]] void fail(const fs::path& path) {
  throw IoError(fmt::format("cannot write {}: {}", path.string(), std::strerror(errno)));
}

}  // namespace

void write_file_atomically(const fs::path& path, std::string_view text) {
  const fs::path temporary = fmt::format("{}.tmp.{}", path.string(), getpid());
  std::FILE* file = std::fopen(temporary.c_str(), "wb");
  if (!file) fail(path);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size() &&
                       std::fflush(file) == 0 && fsync(fileno(file)) == 0;
  const bool closed = std::fclose(file) == 0;
  if (!written || !closed || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const int reason = errno;
    std::remove(temporary.c_str());
    errno = reason;
    fail(path);
  }
}

RunFolder::RunFolder(fs::path folder, UsedFolder used) : folder_(std::move(folder)) {
  std::error_code error;
  if (used == UsedFolder::replace) {
    for (const char* name : kOwnNames) fs::remove_all(folder_ / name, error);
  }
  const bool is_used =
      std::ranges::any_of(kOwnNames, [&](const char* name) { return fs::exists(folder_ / name, error); });
  HEADWAY_CHECK(used != UsedFolder::refuse || !is_used, ConfigError,
                fmt::format("{} holds a run already: choose another run.name, or continue it with "
                            "checkpoint.resume = \"auto\", or replace it with run.force_new = true",
                            folder_.string()));
  for (const char* sub : {"checkpoints", "samples", "logs"}) {
    fs::create_directories(folder_ / sub, error);
    HEADWAY_CHECK(!error, IoError,
                  fmt::format("cannot create {}: {}", (folder_ / sub).string(), error.message()));
  }
  log_ = std::fopen((folder_ / "log.txt").c_str(), "ab");
  if (!log_) fail(folder_ / "log.txt");
}

RunFolder::~RunFolder() { std::fclose(log_); }

void RunFolder::say(std::string_view line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
  fmt::print(log_, "{}\n", line);
  std::fflush(log_);
}

void RunFolder::write_text(std::string_view name, std::string_view text) const {
  write_file_atomically(folder_ / name, text);
}

}  // namespace headway
