#include "trainers/report/comparison_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace headway {
namespace {

std::string number(const Figure& figure, double value) { return std::isnan(value) ? "" : figure.text(value); }

std::string with_sign(const Figure& figure, double value) {
  return (value < 0 ? "-" : "+") + figure.text(std::abs(value));
}

std::vector<std::string> compared_cells(const Verdict& verdict, const Figure& figure) {
  const PairedDifference& d = verdict.difference;
  if (d.difference.count == 0) return {"no pairs", "", "0", "", ""};
  const std::string mean = with_sign(figure, d.difference.mean),
                    pairs = fmt::format("{}", d.difference.count);
  if (d.difference.count == 1) return {mean, "one pair", pairs, "", ""};
  return {mean, fmt::format("{} to {}", with_sign(figure, d.low), with_sign(figure, d.high)), pairs,
          p_text(d.p), p_text(verdict.p_holm)};
}

}  // namespace

Table comparison_table(const SweepResults& results, const Figure& figure) {
  Table table{.head = {"run", "seeds", figure.title, "deviation"}, .rows = {}};
  const std::vector<Verdict> verdicts = results.verdicts(figure);
  if (!verdicts.empty())
    for (const std::string& title : {"minus " + results.sweep.baseline, std::string("95 % interval"),
                                     std::string("pairs"), std::string("p"), std::string("p (Holm)")})
      table.head.push_back(title);
  for (const Group& group : results.groups) {
    const Sample own = describe(group, figure);
    std::vector<std::string> row{group.name, fmt::format("{}", own.count), number(figure, own.mean),
                                 number(figure, own.deviation)};
    const auto verdict =
        std::ranges::find(verdicts, &group, [](const Verdict& v) { return v.comparison->group; });
    if (verdict != verdicts.end()) {
      for (std::string& cell : compared_cells(*verdict, figure)) row.push_back(std::move(cell));
    } else if (!verdicts.empty()) {
      row.push_back("baseline");
      row.resize(table.head.size());
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace headway
