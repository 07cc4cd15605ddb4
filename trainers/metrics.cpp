#include "trainers/metrics.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/io/regular_file.h"
#include "trainers/config/parse_json.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

using Row = nlohmann::ordered_json;

/// Counts without a decimal point; what is not finite as a text, since JSON has no such numbers.
Row to_value(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
  constexpr double kExact = 0x1p53;
  return value == std::trunc(value) && std::abs(value) < kExact ? Row(static_cast<int64_t>(value))
                                                                : Row(value);
}

struct Line {
  std::string text;
  Row row;
};

// An absent file has no lines. A last line that a kill cut short is dropped; IoError for any other that is no
// row.
std::vector<Line> read_lines(const fs::path& path) {
  std::vector<Line> lines;
  if (is_absent(path)) return lines;
  HEADWAY_CHECK(!is_no_regular_file(path), IoError,
                fmt::format("cannot read {}: it is no regular file", path.string()));
  std::ifstream in(path);
  HEADWAY_CHECK(in, IoError, fmt::format("cannot read {}: {}", path.string(), std::strerror(errno)));
  int64_t number = 0;
  for (std::string text; std::getline(in, text);) {
    ++number;
    Row row = parse_json<Row>(text);
    if (!row.is_object() && in.peek() == std::ifstream::traits_type::eof()) break;
    HEADWAY_CHECK(row.is_object(), IoError,
                  fmt::format("{}:{}: expected a JSON object", path.string(), number));
    const auto step = row.find("step");
    HEADWAY_CHECK(step != row.end() && step->is_number_integer(), IoError,
                  fmt::format("{}:{}: expected an integer in the field step", path.string(), number));
    lines.push_back({text, std::move(row)});
  }
  return lines;
}

}  // namespace

std::string MetricRow::to_json() const {
  Row row;
  for (const auto& [name, value] : values_) row[name] = to_value(value);
  return row.dump();
}

MetricsLog::MetricsLog(const fs::path& folder, int64_t resumed_step)
    : jsonl_path_(folder / "metrics.jsonl"), csv_path_(folder / "metrics.csv") {
  std::string kept;
  for (const Line& line : read_lines(jsonl_path_))
    if (line.row["step"].get<int64_t>() <= resumed_step) kept += line.text + "\n";
  write_file_atomically(jsonl_path_, kept);
  file_ = std::fopen(jsonl_path_.c_str(), "ab");
  HEADWAY_CHECK(file_, IoError,
                fmt::format("cannot write {}: {}", jsonl_path_.string(), std::strerror(errno)));
  write_csv();
}

MetricsLog::~MetricsLog() { std::fclose(file_); }

void MetricsLog::write(const MetricRow& row) {
  struct stat status {};
  HEADWAY_CHECK(fstat(fileno(file_), &status) == 0 && status.st_nlink > 0, IoError,
                fmt::format("{} was deleted while the run was writing to it", jsonl_path_.string()));
  const std::string line = row.to_json() + "\n";
  const bool written =
      std::fwrite(line.data(), 1, line.size(), file_) == line.size() && std::fflush(file_) == 0;
  HEADWAY_CHECK(written, IoError,
                fmt::format("cannot write {}: {}", jsonl_path_.string(), std::strerror(errno)));
}

int64_t MetricsLog::last_step_with(std::string_view name) const {
  int64_t step = -1;
  for (const Line& line : read_lines(jsonl_path_))
    if (line.row.contains(name)) step = line.row.value("step", step);
  return step;
}

void MetricsLog::write_csv() const {
  const std::vector<Line> lines = read_lines(jsonl_path_);
  std::vector<std::string> columns;
  for (const Line& line : lines)
    for (const auto& [name, value] : line.row.items())
      if (std::find(columns.begin(), columns.end(), name) == columns.end()) columns.push_back(name);
  std::string text = fmt::format("{}\n", fmt::join(columns, ","));
  for (const Line& line : lines) {
    std::vector<std::string> cells;
    for (const std::string& column : columns) {
      const auto cell = line.row.find(column);
      cells.push_back(cell == line.row.end() ? ""
                      : cell->is_string()    ? cell->get<std::string>()
                                             : cell->dump());
    }
    text += fmt::format("{}\n", fmt::join(cells, ","));
  }
  write_file_atomically(csv_path_, text);
}

}  // namespace headway
