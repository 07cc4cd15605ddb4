#include "trainers/run_record.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <ctime>
#include <fstream>
#include <iterator>

#include "core/io/atomic_file.h"

namespace headway {
namespace {

using Json = nlohmann::ordered_json;

/// UTC, as in 2026-01-31T23:59:59Z.
std::string now() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

/// The arguments this process was started with.
Json command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  Json arguments = Json::array();
  for (std::string argument; std::getline(file, argument, '\0');) arguments.push_back(argument);
  return arguments;
}

/// The attempts of an earlier record; none where it is missing or damaged.
Json earlier_attempts(const std::filesystem::path& path) {
  std::ifstream file(path);
  const Json record = Json::parse(file, nullptr, false);
  if (!record.is_object() || !record.contains("attempts")) return Json::array();
  return record["attempts"];
}

void write(const std::filesystem::path& path, const Json& record) {
  constexpr auto kReplace = Json::error_handler_t::replace;  // a path need not be UTF-8
  write_file_atomically(path, record.dump(2, ' ', false, kReplace) + "\n");
}

}  // namespace

RunRecord::RunRecord(const std::filesystem::path& folder, const Start& start) : path_(folder / "run.json") {
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
