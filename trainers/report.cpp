#include "trainers/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/io/atomic_file.h"
#include "trainers/report/comparison_table.h"
#include "trainers/report/report_page.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

std::string csv_field(double value) { return std::isfinite(value) ? fmt::format("{}", value) : ""; }

/// A line for each arm; what was compared stands in the lines of all arms of a group.
std::string csv(const SweepResults& results) {
  std::string text = "arm,group,run,seed,status,device,started,ended";
  for (const Figure& figure : figures()) text += fmt::format(",{}", figure.csv_name);
  text += ",paired_with";
  for (const Figure& figure : figures())
    if (figure.is_compared)
      text += fmt::format(",{0}_difference,{0}_pairs,{0}_mean_difference,{0}_low,{0}_high,{0}_p,{0}_p_holm",
                          figure.csv_name);
  text += "\n";
  for (const ArmResult& arm : results.arms) {
    text += fmt::format("{},{},{},{},{},{},{},{}", arm.arm->name, arm.arm->group, arm.arm->run, arm.seed(),
                        arm.status, csv_field(arm.device), csv_field(arm.started), csv_field(arm.ended));
    for (const Figure& figure : figures()) text += "," + csv_field(figure.value(arm));
    const ArmResult* const partner = results.partner_of(arm);
    text += "," + (partner ? partner->arm->name : "");
    for (const Figure& figure : figures()) {
      if (!figure.is_compared) continue;
      const std::vector<Verdict> verdicts = results.verdicts(figure);
      const auto verdict = std::ranges::find_if(
          verdicts, [&](const Verdict& v) { return v.comparison->group->name == arm.arm->group; });
      if (verdict == verdicts.end()) {
        text += ",,,,,,,";
        continue;
      }
      const PairedDifference& d = verdict->difference;
      text += fmt::format(",{},{},{},{},{},{},{}",
                          partner ? csv_field(figure.value(arm) - figure.value(*partner)) : "",
                          d.difference.count, csv_field(d.difference.mean), csv_field(d.low),
                          csv_field(d.high), csv_field(d.p), csv_field(verdict->p_holm));
    }
    text += "\n";
  }
  return text;
}

}  // namespace

void write_report(const SweepResults& results) {
  std::error_code ignored;
  fs::create_directories(results.sweep.folder, ignored);  // a failure shows in the writing
  write_file_atomically(results.sweep.folder / "report.html", report_page(results));
  write_file_atomically(results.sweep.folder / "results.csv", csv(results));
}

std::string comparison_text(const SweepResults& results) {
  std::string text;
  for (const Figure* figure : results.compared_figures()) {
    const Table table = comparison_table(results, *figure);
    std::vector<size_t> widths(table.head.size());
    const auto widen = [&](const std::vector<std::string>& row) {
      for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    };
    widen(table.head);
    std::ranges::for_each(table.rows, widen);
    const auto line = [&](const std::vector<std::string>& row) {
      std::string cells = fmt::format("{:<{}}", row[0], widths[0]);
      for (size_t i = 1; i < row.size(); ++i) cells += fmt::format("  {:>{}}", row[i], widths[i]);
      return cells.substr(0, cells.find_last_not_of(' ') + 1) + "\n";
    };
    text += line(table.head);
    for (const std::vector<std::string>& row : table.rows) text += line(row);
  }
  for (const std::string& sentence : results.unpaired) text += sentence + "\n";
  for (const ArmResult& arm : results.arms)
    if (!arm.problem.empty()) text += arm.problem + "\n";
  return text;
}

}  // namespace headway
