#include "trainers/report/report_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "trainers/report/chart.h"
#include "trainers/report/comparison_table.h"

namespace headway {
namespace {

std::string escaped(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      default:
        safe += c;
    }
  }
  return safe;
}

std::string list(const std::vector<std::string>& items) {
  std::string html = "<ul>";
  for (const std::string& item : items) html += "<li>" + escaped(item) + "</li>";
  return html + "</ul>";
}

/// How much better the mean of one group is than that of another; NaN where one has none.
double lead(const Figure& figure, const Sample& one, const Sample& other) {
  switch (figure.better) {
    case Figure::Better::smaller:
      return other.mean - one.mean;
    case Figure::Better::larger:
      return one.mean - other.mean;
    case Figure::Better::neither:
      break;
  }
  return 0;
}

/// The cells of one column; the best of them are marked unless all are equal.
std::vector<std::string> column(const std::vector<Group>& groups, const Figure& figure) {
  std::vector<Sample> samples;
  for (const Group& group : groups) samples.push_back(describe(group, figure));
  std::vector<std::string> cells;
  for (size_t i = 0; i < groups.size(); ++i) {
    const Sample& own = samples[i];
    if (own.count == 0) {
      // What a formula does not give, the model does not have.
      const bool is_unknown =
          !figure.is_planned || std::ranges::none_of(groups[i].arms, &ArmResult::has_plan);
      cells.push_back(is_unknown ? "<td>&ndash;</td>" : "<td>n/a</td>");
      continue;
    }
    const auto is_beaten_by = [&](const Sample& other) { return lead(figure, other, own) > 0; };
    const auto beats = [&](const Sample& other) { return lead(figure, own, other) > 0; };
    const bool is_best = std::ranges::none_of(samples, is_beaten_by) && std::ranges::any_of(samples, beats);
    std::string text = figure.text(own.mean);
    if (own.count > 1)
      if (const std::string deviation = figure.text(own.deviation); deviation != figure.text(0))
        text += "<small>&plusmn; " + deviation + "</small>";
    cells.push_back(fmt::format("<td{}>{}</td>", is_best ? " class=\"best\"" : "", text));
  }
  return cells;
}

std::string figures_table(const std::vector<Group>& groups) {
  std::string head = "<th>run</th><th>seeds</th>";
  std::vector<std::string> rows;
  for (const Group& group : groups)
    rows.push_back(fmt::format("<th>{}</th><td>{}</td>", escaped(group.name), group.arms.size()));
  for (const Figure& figure : figures()) {
    if (std::ranges::none_of(groups, [&](const Group& group) { return describe(group, figure).count > 0; }))
      continue;
    head += fmt::format("<th>{}</th>", figure.title);
    const std::vector<std::string> cells = column(groups, figure);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] += cells[i];
  }
  std::string html =
      "<div class=\"wide\"><table class=\"figures\"><thead><tr>" + head + "</tr></thead><tbody>";
  for (const std::string& row : rows) html += "<tr>" + row + "</tr>";
  return html + "</tbody></table></div>";
}

std::string comparison_section(const SweepResults& results) {
  if (results.comparisons.empty()) return "";
  std::string html = fmt::format(
      "<h2>Beside {0}</h2><p class=\"note\">Differences from the arm of {0} with the same seed, and their "
      "mean's 95 % interval by Student's t. Holm's correction is over the runs of a table.</p>",
      escaped(results.sweep.baseline));
  for (const Figure* figure : results.compared_figures()) {
    const Table table = comparison_table(results, *figure);
    html += "<div class=\"wide\"><table class=\"pairs\"><thead><tr>";
    for (const std::string& title : table.head) html += "<th>" + escaped(title) + "</th>";
    html += "</tr></thead><tbody>";
    for (const std::vector<std::string>& row : table.rows) {
      html += "<tr><th>" + escaped(row[0]) + "</th>";
      for (size_t i = 1; i < row.size(); ++i) html += "<td>" + escaped(row[i]) + "</td>";
      html += "</tr>";
    }
    html += "</tbody></table></div>";
  }
  if (!results.unpaired.empty()) html += "<h3>Not paired</h3>" + list(results.unpaired);
  return html;
}

/// Keys that name a run and say how it is started; the seed tells repetitions apart.
bool tells_runs_apart(const std::string& key) {
  static const std::set<std::string> kOwn{"run.name", "run.folder", "run.force_new", "run.seed",
                                          "checkpoint.resume"};
  return !kOwn.contains(key);
}

/// The resolved recipe of a group that has started: its arms differ in their seed alone.
const Settings* recipe_of(const Group& group) {
  for (const ArmResult* arm : group.arms)
    if (!arm->recipe.empty()) return &arm->recipe;
  return nullptr;
}

/// As the recipe has it; empty where it does not have it.
std::string value_of(const Settings& recipe, const std::string& key) {
  const auto found = recipe.find(key);
  return found == recipe.end() ? "" : found->second.shown();
}

std::string keys_section(const SweepResults& results) {
  const auto baseline = std::ranges::find(results.groups, results.sweep.baseline, &Group::run);
  const Settings* const base = baseline == results.groups.end() ? nullptr : recipe_of(*baseline);
  if (!base) return "";
  std::set<std::string> differing;
  std::set<std::string> all;
  for (const Group& group : results.groups)
    if (const Settings* const recipe = recipe_of(group))
      for (const auto& [key, setting] : *recipe) all.insert(key);
  for (const Group& group : results.groups)
    if (const Settings* const recipe = recipe_of(group))
      for (const std::string& key : all)
        if (tells_runs_apart(key) && value_of(*recipe, key) != value_of(*base, key)) differing.insert(key);
  if (differing.empty()) return "";
  std::string html = fmt::format(
      "<h2>Keys in which runs differ</h2><p class=\"note\">Of the resolved recipes: of {} all such keys, of "
      "the others those with another value.</p><div class=\"wide\"><table class=\"keys\"><tbody>",
      escaped(baseline->name));
  for (const Group& group : results.groups) {
    html += "<tr><th>" + escaped(group.name) + "</th><td>";
    const Settings* const recipe = recipe_of(group);
    if (!recipe) html += "not started";
    for (const std::string& key : differing) {
      if (!recipe) break;
      const std::string value = value_of(*recipe, key);
      if (&group == &*baseline ? value.empty() : value == value_of(*base, key)) continue;
      html += "<code>" + escaped(value.empty() ? "no " + key : key + " = " + value) + "</code> ";
    }
    html += "</td></tr>";
  }
  return html + "</tbody></table></div>";
}

using Points = std::vector<Point> ArmResult::*;
using X = double (*)(const ArmResult&, const Point&);

/// Mean of the arms that have recorded a point, between the smallest and largest of them.
std::vector<Curve::Point> points_of(const Group& group, Points points, X x_of) {
  struct Values {
    std::vector<double> x, y;
  };
  std::map<double, Values> by_tokens;
  for (const ArmResult* arm : group.arms)
    for (const Point& point : arm->*points)
      if (const double x = x_of(*arm, point); std::isfinite(point.loss) && std::isfinite(x)) {
        by_tokens[point.tokens].x.push_back(x);
        by_tokens[point.tokens].y.push_back(point.loss);
      }
  constexpr size_t kMostPoints = 600;  // a chart has no more pixels
  const size_t stride = by_tokens.size() / kMostPoints + 1;
  std::vector<Curve::Point> all;
  size_t index = 0;
  for (const auto& [tokens, values] : by_tokens) {
    const bool is_last = ++index == by_tokens.size();
    if (!is_last && (index - 1) % stride != 0) continue;
    const auto [low, high] = std::ranges::minmax(values.y);
    all.push_back({.x = describe(values.x).mean, .y = describe(values.y).mean, .low = low, .high = high});
  }
  return all;
}

std::string charts(const SweepResults& results, const std::string& name, Points points) {
  std::vector<std::string> families;
  for (const Group& group : results.groups) families.push_back(group.run);
  const std::vector<Stroke> stroke = strokes(families);
  const auto one = [&](const char* x_title, X x_of) {
    std::vector<Curve> curves;
    for (size_t i = 0; i < results.groups.size(); ++i) {
      const Group& group = results.groups[i];
      curves.push_back({.title = escaped(group.name),
                        .colour = stroke[i].colour,
                        .dashes = stroke[i].dashes,
                        .points = points_of(group, points, x_of),
                        .has_band = group.arms.size() > 1});
    }
    return chart(curves, name, x_title);
  };
  std::string html = one("tokens", [](const ArmResult&, const Point& p) { return p.tokens; });
  html +=
      one("TFLOP", [](const ArmResult& a, const Point& p) { return p.tokens * a.flop_per_token() / 1e12; });
  html += one("seconds", [](const ArmResult&, const Point& p) { return p.seconds; });
  return html;
}

std::string legend(const SweepResults& results) {
  std::vector<std::string> families;
  for (const Group& group : results.groups) families.push_back(group.run);
  const std::vector<Stroke> stroke = strokes(families);
  std::string html = "<p class=\"legend\">";
  for (size_t i = 0; i < results.groups.size(); ++i)
    html += fmt::format(
        "<span><svg viewBox=\"0 0 28 8\"><line x2=\"28\" y1=\"4\" y2=\"4\" stroke=\"{}\" "
        "stroke-dasharray=\"{}\"/></svg>{}</span> ",
        stroke[i].colour, stroke[i].dashes, escaped(results.groups[i].name));
  return html + "</p>";
}

std::string charts_section(const SweepResults& results) {
  std::string html;
  for (const auto& [title, name, points] :
       {std::tuple{"Validation loss", "validation loss", &ArmResult::validation},
        std::tuple{"Training loss", "training loss", &ArmResult::training}})
    if (const std::string drawn = charts(results, name, points); !drawn.empty())
      html += fmt::format("<h2>{} (nats per token)</h2>{}<div class=\"charts\">{}</div>", title,
                          legend(results), drawn);
  return html.empty()
             ? html
             : html +
                   "<p class=\"note\">Lines are means over the seeds, bands reach from the smallest to the "
                   "largest.</p>";
}

/// What ran where, and when.
std::string circumstances(const std::vector<ArmResult>& arms) {
  std::map<std::string, int> devices;
  std::string first, last;
  for (const ArmResult& arm : arms) {
    if (arm.device.empty()) continue;
    ++devices[arm.device];
    if (first.empty() || arm.started < first) first = arm.started;
    last = std::max({last, arm.started, arm.ended});
  }
  std::string text;
  for (const auto& [device, count] : devices)
    text += fmt::format("{}{}: {} arm{}", text.empty() ? "" : "; ", escaped(device), count,
                        count == 1 ? "" : "s");
  if (text.empty()) return "";
  const auto minute = [](std::string time) {  // 2026-01-31T23:59:59Z
    return time.size() < 16 ? time : time.replace(10, 1, " ").substr(0, 16);
  };
  text += fmt::format(". {} to {} UTC.", escaped(minute(first)), escaped(minute(last)));
  return devices.size() > 1 ? text + " Speed and memory compare on one device alone." : text;
}

/// The template with every {{field}} replaced by its value, which is not looked into.
std::string filled(std::string_view page, const std::map<std::string_view, std::string>& fields) {
  std::string html;
  for (size_t begin = 0; begin != std::string_view::npos;) {
    const size_t open = page.find("{{", begin), close = page.find("}}", open);
    html += page.substr(begin, open - begin);
    if (open != std::string_view::npos) html += fields.at(page.substr(open + 2, close - open - 2));
    begin = open == std::string_view::npos ? open : close + 2;
  }
  return html;
}

std::string list_section(const char* title, const std::vector<std::string>& items) {
  return items.empty() ? "" : fmt::format("<h2>{}</h2>{}", title, list(items));
}

}  // namespace

std::string report_page(const SweepResults& results) {
  std::vector<std::string> unfinished, problems;
  for (const ArmResult& arm : results.arms) {
    if (!arm.is_finished())
      unfinished.push_back(
          fmt::format("{}: {}", arm.arm->name, arm.status.empty() ? "not started" : arm.status));
    if (!arm.problem.empty()) problems.push_back(arm.problem);
  }
  return filled(kReportTemplate, {{"name", escaped(results.sweep.name)},
                                  {"finished", fmt::format("{}", results.arms.size() - unfinished.size())},
                                  {"arms", fmt::format("{}", results.arms.size())},
                                  {"circumstances", circumstances(results.arms)},
                                  {"figures", figures_table(results.groups)},
                                  {"comparison", comparison_section(results)},
                                  {"unfinished", list_section("Not finished", unfinished)},
                                  {"problems", list_section("Not read", problems)},
                                  {"charts", charts_section(results)},
                                  {"keys", keys_section(results)}});
}

}  // namespace headway
