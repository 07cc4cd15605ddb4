// run.json: what was started, when, where, and how it ended.
//
//   {"name", "version", "status", "data": {"digest", "train_digest", "held_out_digest"},
//    "attempts": [{"status", "reason", "exit_status", "command", "host", "pid", "ranks", "threads", "device",
//                  "started", "ended", "first_step", "last_step", "changes"}, ...]}
//
// The digests name the data, the training split and the held-out split (trainers/data/data_digests.h): runs
// whose digests are equal may be compared. One attempt per start of the same run; the status of the last one
// stands on top as well. "running" is what a killed process leaves behind. "changes" are keys of the recipe
// that differ from the checkpoint's, as checkpoint.allow permitted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "trainers/data/data_digests.h"

namespace headway {

inline constexpr const char* kRunRecordName = "run.json";

class RunRecord {
 public:
  struct Start {
    std::string name;
    DataDigests data;
    std::string device;
    int num_ranks = 1;
    int num_threads = 1;  // of one rank
    int64_t step = 0;     // already done
    std::vector<std::string> changes = {};
  };

  /// Why folder/run.json is not a record of ours, in words that name the file and the field; empty where it
  /// is one.
  static std::string problem_of(const std::filesystem::path& folder);

  /// What the record in a folder says; empty where there is none, "unreadable" where it is no record of ours.
  static std::string status_of(const std::filesystem::path& folder);

  /// The data that the record in a folder names; none where it names none.
  static DataDigests digests_of(const std::filesystem::path& folder);

  /// Adds an attempt to folder/run.json, with the status "running". IoError when it cannot be written, or one
  /// that is there is no record of ours.
  RunRecord(const std::filesystem::path& folder, const Start&);
  /// "finished" or "stopped".
  void end(ExitCode, int64_t step);
  /// "failed". Never throws: a failure is being reported already.
  void fail(ExitCode, const std::string& reason, int64_t step) noexcept;

 private:
  void finish(const char* status, ExitCode, const std::string& reason, int64_t step);

  std::filesystem::path path_;
  nlohmann::ordered_json record_;
};

}  // namespace headway
