#include "trainers/run_record.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>

#include "core/io/atomic_file.h"
#include "core/io/folder_lock.h"
#include "core/io/regular_file.h"
#include "trainers/config/parse_json.h"

namespace headway {
namespace {

using Json = nlohmann::ordered_json;

/// UTC, as in 2026-01-31T23:59:59Z.
std::string now() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

/// The arguments this process was started with.
Json command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  Json arguments = Json::array();
  for (std::string argument; std::getline(file, argument, '\0');) arguments.push_back(argument);
  return arguments;
}

/// What a file holds, and why it is no record; the problem is empty where it is one.
struct Reading {
  Json record;
  std::string problem;
};

Reading read(const std::filesystem::path& path) {
  if (is_no_regular_file(path))
    return {{}, fmt::format("cannot read {}: it is no regular file", path.string())};
  std::ifstream file(path);
  if (!file) return {{}, fmt::format("cannot read {}: {}", path.string(), std::strerror(errno))};
  Json record = parse_json<Json>({std::istreambuf_iterator<char>(file), {}});
  const auto wrong = [&](std::string_view what) {
    return Reading{{}, fmt::format("{}: {}", path.string(), what)};
  };
  if (!record.is_object()) return wrong("expected a JSON object");
  const auto status = record.find("status"), attempts = record.find("attempts");
  if (status == record.end() || !status->is_string()) return wrong("expected a text in the field status");
  if (attempts == record.end() || !attempts->is_array() ||
      !std::ranges::all_of(*attempts, [](const Json& attempt) { return attempt.is_object(); }))
    return wrong("expected a list of objects in the field attempts");
  return {std::move(record), ""};
}

/// The attempts of an earlier record, if there is one.
Json earlier_attempts(const std::filesystem::path& path) {
  if (is_absent(path)) return Json::array();
  Reading reading = read(path);
  HEADWAY_CHECK(reading.problem.empty(), IoError,
                reading.problem + "; move the file away to begin a new record");
  return std::move(reading.record["attempts"]);
}

void write(const std::filesystem::path& path, const Json& record) {
  constexpr auto kReplace = Json::error_handler_t::replace;  // a path need not be UTF-8
  write_file_atomically(path, record.dump(2, ' ', false, kReplace) + "\n");
}

}  // namespace

std::string RunRecord::problem_of(const std::filesystem::path& folder) {
  return read(folder / kRunRecordName).problem;
}

std::string RunRecord::status_of(const std::filesystem::path& folder) {
  if (is_absent(folder / kRunRecordName)) return "";
  const Reading reading = read(folder / kRunRecordName);
  return reading.problem.empty() ? reading.record["status"].get<std::string>() : "unreadable";
}

DataDigests RunRecord::digests_of(const std::filesystem::path& folder) {
  const Json record = read(folder / kRunRecordName).record;
  const auto data = record.find("data");
  if (data == record.end() || !data->is_object()) return {};
  const auto digest = [&](const char* name) {
    const auto found = data->find(name);
    return found != data->end() && found->is_string() ? found->get<std::string>() : "";
  };
  return {.all = digest("digest"), .train = digest("train_digest"), .held_out = digest("held_out_digest")};
}

RunRecord::RunRecord(const std::filesystem::path& folder, const Start& start)
    : path_(folder / kRunRecordName) {
  Json attempts = earlier_attempts(path_);
  attempts.push_back({{"status", "running"},
                      {"command", command_line()},
                      {"host", host_name()},
                      {"pid", getpid()},
                      {"ranks", start.num_ranks},
                      {"threads", start.num_threads},
                      {"device", start.device},
                      {"started", now()},
                      {"first_step", start.step}});
  if (!start.changes.empty()) attempts.back()["changes"] = start.changes;
  record_ = {{"name", start.name},
             {"version", HEADWAY_VERSION},
             {"status", "running"},
             {"data",
              {{"digest", start.data.all},
               {"train_digest", start.data.train},
               {"held_out_digest", start.data.held_out}}},
             {"attempts", std::move(attempts)}};
  write(path_, record_);
}

void RunRecord::end(ExitCode code, int64_t step) {
  finish(code == ExitCode::ok ? "finished" : "stopped", code, "", step);
}

void RunRecord::fail(ExitCode code, const std::string& reason, int64_t step) noexcept {
  try {
    finish("failed", code, reason, step);
  } catch (const std::exception&) {
    return;  // the disk may be what failed
  }
}

void RunRecord::finish(const char* status, ExitCode code, const std::string& reason, int64_t step) {
  record_["status"] = status;
  Json& attempt = record_["attempts"].back();
  attempt["status"] = status;
  if (!reason.empty()) attempt["reason"] = reason;
  attempt["exit_status"] = static_cast<int>(code);
  attempt["ended"] = now();
  attempt["last_step"] = step;
  write(path_, record_);
}

}  // namespace headway
