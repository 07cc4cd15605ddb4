#include "trainers/run_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "core/io/atomic_file.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

// Everything a run writes; a folder that has any of it is a used one.
constexpr const char* kOwnNames[] = {"run.json",      "recipe.toml", "recipe.resolved.toml",
                                     "metrics.jsonl", "metrics.csv", "log.txt",
                                     "logs",          "checkpoints", "samples"};

}  // namespace

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
  HEADWAY_CHECK(log_, IoError,
                fmt::format("cannot write {}: {}", (folder_ / "log.txt").string(), std::strerror(errno)));
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
