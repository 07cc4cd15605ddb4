#include "trainers/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/text/printable.h"
#include "trainers/plan.h"
#include "trainers/recipe.h"

namespace headway {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::json;

struct Point {
  double tokens, seconds, loss;
};

/// What one arm recorded.
struct ArmResult {
  const Arm* arm = nullptr;
  std::string status;
  std::optional<Plan> plan;  // absent where the run never wrote its recipe
  std::vector<Point> training;
  double val_loss = NAN, bits_per_byte = NAN, accuracy = NAN;
  double tokens_per_second = NAN, memory_gib = NAN;

  double flop_per_token() const { return plan ? plan->executed_flop_per_token.total() : NAN; }
};

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

double median(std::vector<double> values) {
  if (values.empty()) return NAN;
  std::ranges::sort(values);
  return values[values.size() / 2];
}

ArmResult read_arm(const Sweep& sweep, const Arm& arm) {
  const fs::path folder = sweep.run_folder(arm);
  ArmResult result;
  result.arm = &arm;
  result.status = status_of(sweep, arm);
  if (const std::string recipe = read_text(folder / "recipe.resolved.toml"); !recipe.empty()) {
    try {
      result.plan = make_plan(parse_recipe(recipe, (folder / "recipe.resolved.toml").string(), {}), 0, 1);
    } catch (const ConfigError& error) {
      // One torn file must not stop the report of the others.
      result.status = "unreadable";
      fmt::print(stderr, "headway: {}\n", printable(error.what()));
    }
  }
  std::istringstream lines(read_text(folder / "metrics.jsonl"));
  std::vector<double> speeds;
  double seconds = 0, tokens_before = 0;
  for (std::string line; std::getline(lines, line);) {
    const Json row = Json::parse(line, nullptr, false);
    if (!row.is_object()) continue;  // cut short by a kill
    const auto number = [&](const char* key, double otherwise) {
      return row.contains(key) && row[key].is_number() ? row[key].get<double>() : otherwise;
    };
    const double tokens = number("tokens", 0), speed = number("perf/tokens_per_s", NAN);
    if (!std::isnan(speed)) {
      speeds.push_back(speed);
      seconds += (tokens - tokens_before) / speed;
      tokens_before = tokens;
      result.training.push_back({tokens, seconds, number("train/loss", NAN)});
    }
    result.val_loss = number("val/loss", result.val_loss);
    result.bits_per_byte = number("val/bpb", result.bits_per_byte);
    result.accuracy = number("val/accuracy", result.accuracy);
    result.memory_gib = number("mem/peak_gib", result.memory_gib);
  }
  result.tokens_per_second = median(speeds);
  return result;
}

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

/// A quantity of an arm, with how it reads and which side is better.
struct Column {
  const char* title;
  const char* csv_name;
  std::function<double(const ArmResult&)> value;
  std::function<std::string(double)> text;
  int better;  // -1 smaller, 1 larger, 0 neither
};

const std::vector<Column>& columns() {
  const auto digits = [](const char* format) {
    return [format](double x) { return fmt::format(fmt::runtime(format), x); };
  };
  static const std::vector<Column> all{
      {"val loss", "val_loss", [](const ArmResult& a) { return a.val_loss; }, digits("{:.4f}"), -1},
      {"bits per byte", "val_bits_per_byte", [](const ArmResult& a) { return a.bits_per_byte; },
       digits("{:.4f}"), -1},
      {"accuracy", "val_accuracy", [](const ArmResult& a) { return a.accuracy; }, digits("{:.4f}"), 1},
      {"parameters", "parameters",
       [](const ArmResult& a) { return a.plan ? static_cast<double>(a.plan->num_parameters) : NAN; },
       digits("{:.0f}"), 0},
      {"MFLOP per token", "flop_per_token", [](const ArmResult& a) { return a.flop_per_token(); },
       [](double x) { return fmt::format("{:.2f}", x / 1e6); }, -1},
      {"ideal MFLOP", "ideal_flop_per_token",
       [](const ArmResult& a) { return a.plan ? a.plan->ideal_flop_per_token.total() : NAN; },
       [](double x) { return fmt::format("{:.2f}", x / 1e6); }, 0},
      {"cache bytes per token", "cache_bytes_per_token",
       [](const ArmResult& a) { return a.plan ? a.plan->cache_bytes_per_token : NAN; }, digits("{:.0f}"), -1},
      {"state bytes", "state_bytes", [](const ArmResult& a) { return a.plan ? a.plan->state_bytes : NAN; },
       digits("{:.0f}"), -1},
      {"tokens/s", "tokens_per_second", [](const ArmResult& a) { return a.tokens_per_second; },
       digits("{:.0f}"), 1},
      {"memory GiB", "memory_gib", [](const ArmResult& a) { return a.memory_gib; }, digits("{:.3f}"), -1},
  };
  return all;
}

struct Statistics {
  double mean = NAN, deviation = 0;
  size_t count = 0;
};

Statistics statistics(const std::vector<const ArmResult*>& arms, const Column& column) {
  std::vector<double> values;
  for (const ArmResult* arm : arms)
    if (const double x = column.value(*arm); std::isfinite(x)) values.push_back(x);
  Statistics s{.count = values.size()};
  if (values.empty()) return s;
  s.mean = 0;
  for (const double x : values) s.mean += x / static_cast<double>(values.size());
  for (const double x : values) s.deviation += (x - s.mean) * (x - s.mean);
  s.deviation = values.size() > 1 ? std::sqrt(s.deviation / static_cast<double>(values.size() - 1)) : 0;
  return s;
}

using Groups = std::map<std::string, std::vector<const ArmResult*>>;

std::string table(const Groups& groups) {
  std::string html = "<div class=\"wide\"><table><thead><tr><th>run</th><th>seeds</th>";
  std::vector<const Column*> shown;
  for (const Column& column : columns()) {
    const bool known = std::ranges::any_of(
        groups, [&](const auto& group) { return statistics(group.second, column).count > 0; });
    if (!known) continue;
    shown.push_back(&column);
    html += fmt::format("<th>{}</th>", column.title);
  }
  html += "</tr></thead><tbody>";
  for (const auto& [name, arms] : groups) {
    html += fmt::format("<tr><th>{}</th><td>{}</td>", escaped(name), arms.size());
    for (const Column* column : shown) {
      const Statistics own = statistics(arms, *column);
      if (own.count == 0) {
        html += "<td>&ndash;</td>";
        continue;
      }
      // How much better another group is; a column in which all are equal has no best.
      const auto lead = [&](const auto& other) {
        return column->better * (statistics(other.second, *column).mean - own.mean);
      };
      const bool best = std::ranges::none_of(groups, [&](const auto& other) { return lead(other) > 0; }) &&
                        std::ranges::any_of(groups, [&](const auto& other) { return lead(other) < 0; });
      std::string text = column->text(own.mean);
      if (const std::string deviation = column->text(own.deviation); deviation != column->text(0))
        text += "<small>&plusmn; " + deviation + "</small>";
      html += fmt::format("<td{}>{}</td>", best ? " class=\"best\"" : "", text);
    }
    html += "</tr>";
  }
  return html + "</tbody></table></div>";
}

constexpr const char* kColours[] = {"#1b6ca8", "#c8553d", "#2a9d4a", "#8e44ad", "#d4a017",
                                    "#16808a", "#b03a75", "#5d6d7e", "#7a5230", "#000000"};
constexpr const char* kDashes[] = {"none", "7 3", "2 3", "9 3 2 3"};

/// The stroke of each group's lines. Few groups differ by colour; of many, those of one run share its colour
/// and differ by dashes, as long as there are colours and dashes enough.
std::map<std::string, std::string> strokes(const Groups& groups) {
  std::map<std::string, size_t> runs, groups_of_run;
  for (const auto& [name, arms] : groups) {
    runs.try_emplace(arms[0]->arm->run, runs.size());
    ++groups_of_run[arms[0]->arm->run];
  }
  const bool by_run =
      groups.size() > std::size(kColours) && runs.size() <= std::size(kColours) &&
      std::ranges::all_of(groups_of_run, [](const auto& run) { return run.second <= std::size(kDashes); });
  std::map<std::string, std::string> all;
  std::map<std::string, size_t> seen;
  for (const auto& [name, arms] : groups) {
    const std::string& run = arms[0]->arm->run;
    const size_t colour = by_run ? runs[run] : all.size();
    const size_t dash = by_run ? seen[run]++ : all.size() / std::size(kColours);
    all[name] = fmt::format("stroke=\"{}\" stroke-dasharray=\"{}\"", kColours[colour % std::size(kColours)],
                            kDashes[dash % std::size(kDashes)]);
  }
  return all;
}

struct Tick {
  double at;
  std::string label;
};

/// Round numbers from low to high, four to nine.
std::vector<Tick> ticks(double low, double high) {
  const double power = std::pow(10, std::floor(std::log10((high - low) / 8)));
  double step = 10 * power;
  for (const double factor : {5, 2, 1})
    if (factor * power * 8 >= high - low) step = factor * power;
  const auto [unit, letter] = high >= 1e9   ? std::pair{1e9, "B"}
                              : high >= 1e6 ? std::pair{1e6, "M"}
                              : high >= 1e4 ? std::pair{1e3, "k"}
                                            : std::pair{1.0, ""};
  const int decimals = static_cast<int>(std::max(0.0, -std::floor(std::log10(step / unit) + 1e-9)));
  std::vector<Tick> all;
  for (double i = std::ceil(low / step); i * step <= high; ++i) {
    if (i == 0)
      all.push_back({0, "0"});
    else
      all.push_back({i * step, fmt::format("{:.{}f}{}", i * step / unit, decimals, letter)});
  }
  return all;
}

/// Training loss of every arm over x, one colour for each group.
std::string chart(const Groups& groups, const char* title,
                  const std::function<double(const ArmResult&, const Point&)>& x_of) {
  constexpr double kWidth = 640, kHeight = 360, kLeft = 56, kRight = 24, kTop = 12, kBottom = 44;
  double x_max = 0, y_min = 1e300, y_max = -1e300;
  for (const auto& [name, arms] : groups)
    for (const ArmResult* arm : arms)
      for (size_t i = 0; i < arm->training.size(); ++i) {
        const Point& point = arm->training[i];
        if (!std::isfinite(point.loss)) continue;
        x_max = std::max(x_max, x_of(*arm, point));
        y_min = std::min(y_min, point.loss);
        // The first tenth falls from a guess and would flatten the rest.
        if (i >= arm->training.size() / 10) y_max = std::max(y_max, point.loss);
      }
  if (!(x_max > 0) || y_max <= y_min) return "";
  const double margin = 0.05 * (y_max - y_min);
  y_min -= margin, y_max += margin;
  const auto px = [&](double x) { return kLeft + x / x_max * (kWidth - kLeft - kRight); };
  const auto py = [&](double y) { return kTop + (y_max - y) / (y_max - y_min) * (kHeight - kTop - kBottom); };

  std::string svg = fmt::format(
      "<figure><svg viewBox=\"0 0 {0} {1}\" role=\"img\" aria-label=\"training loss by {2}\">"
      "<clipPath id=\"c{2}\"><rect x=\"{3}\" y=\"{4}\" width=\"{5}\" height=\"{6}\"/></clipPath>",
      kWidth, kHeight, title, kLeft, kTop, kWidth - kLeft - kRight, kHeight - kTop - kBottom);
  for (const Tick& y : ticks(y_min, y_max))
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text x=\"{3:.1f}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>",
        kLeft, kWidth - kRight, py(y.at), kLeft - 6, py(y.at) + 4, y.label);
  svg += fmt::format("<line class=\"axis\" x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>",
                     kLeft, kWidth - kRight, kHeight - kBottom);
  for (const Tick& x : ticks(0, x_max))
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>", px(x.at),
                       kHeight - kBottom + 18, x.label);
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>", (kLeft + kWidth) / 2,
                     kHeight - 6, title);
  const auto stroke_of = strokes(groups);
  for (const auto& [name, arms] : groups) {
    for (const ArmResult* arm : arms) {
      std::string points;
      for (const Point& point : arm->training)
        if (std::isfinite(point.loss))
          points += fmt::format("{:.1f},{:.1f} ", px(x_of(*arm, point)), py(point.loss));
      svg += fmt::format("<polyline clip-path=\"url(#c{})\" points=\"{}\" {}><title>{}</title></polyline>",
                         title, points, stroke_of.at(name), escaped(arm->arm->name));
    }
  }
  return svg + "</svg></figure>";
}

std::string legend(const Groups& groups) {
  std::string html = "<p class=\"legend\">";
  for (const auto& [name, stroke] : strokes(groups))
    html +=
        fmt::format("<span><svg viewBox=\"0 0 28 8\"><line x2=\"28\" y1=\"4\" y2=\"4\" {}/></svg>{}</span> ",
                    stroke, escaped(name));
  return html + "</p>";
}

constexpr const char* kStyle =
    "body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1100px;margin:2rem "
    "auto;padding:0 1rem}"
    "h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p.note{color:#555}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
    "th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:right;vertical-align:top}"
    "tbody th,td{white-space:nowrap}td small{display:block;font-weight:400;color:#555;line-height:1.2}"
    "th:first-child{text-align:left}thead "
    "th{font-weight:600;color:#555;font-size:.85rem;vertical-align:bottom}"
    "td.best{font-weight:700;background:#e8f4ea}"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:1rem}"
    "figure{margin:0}figure svg{width:100%;height:auto}svg text{font-size:13px;fill:#555}"
    ".grid{stroke:#e5e5e5}.axis{stroke:#999}polyline{fill:none;stroke-width:1.6;stroke-opacity:.8}"
    ".legend span{display:inline-block;margin-right:1rem;white-space:nowrap}"
    ".legend svg{width:28px;height:8px;margin-right:.35em;vertical-align:.1em}.legend line{stroke-width:3}";

std::string page(const Sweep& sweep, const std::vector<ArmResult>& results, const Groups& groups) {
  std::string problems;
  size_t finished = 0;
  for (const ArmResult& result : results) {
    if (result.status == "finished")
      ++finished;
    else
      problems += fmt::format("<li>{}: {}</li>", escaped(result.arm->name),
                              result.status.empty() ? "not started" : result.status);
  }
  std::string html = fmt::format(
      "<!DOCTYPE html><html lang=\"en\"><head><meta "
      "charset=\"utf-8\"><title>{0}</title><style>{1}</style></head><body>"
      "<h1>{0}</h1><p class=\"note\">{2} of {3} arms finished. Mean &plusmn; standard deviation over seeds; "
      "the best of "
      "each column is marked. Work counts the forward and backward products that kernels execute; ideal "
      "MFLOP leaves "
      "out what they compute in vain.</p>{4}",
      escaped(sweep.name), kStyle, finished, results.size(), table(groups));
  if (!problems.empty()) html += "<h2>Not finished</h2><ul>" + problems + "</ul>";
  html += "<h2>Training loss (nats per token)</h2>" + legend(groups) + "<div class=\"charts\">";
  html += chart(groups, "tokens", [](const ArmResult&, const Point& p) { return p.tokens; });
  html += chart(groups, "TFLOP",
                [](const ArmResult& a, const Point& p) { return p.tokens * a.flop_per_token() / 1e12; });
  html += chart(groups, "seconds", [](const ArmResult&, const Point& p) { return p.seconds; });
  return html + "</div></body></html>\n";
}

std::string csv(const std::vector<ArmResult>& results) {
  std::string text = "arm,group,status";
  for (const Column& column : columns()) text += fmt::format(",{}", column.csv_name);
  text += "\n";
  for (const ArmResult& result : results) {
    text += fmt::format("{},{},{}", result.arm->name, result.arm->group, result.status);
    for (const Column& column : columns()) {
      const double x = column.value(result);
      text += std::isfinite(x) ? fmt::format(",{}", x) : ",";
    }
    text += "\n";
  }
  return text;
}

}  // namespace

void write_report(const Sweep& sweep) {
  std::vector<ArmResult> results;
  for (const Arm& arm : sweep.arms) results.push_back(read_arm(sweep, arm));
  Groups groups;
  for (const ArmResult& result : results) groups[result.arm->group].push_back(&result);
  std::error_code ignored;
  fs::create_directories(sweep.folder, ignored);  // a failure shows in the writing
  write_file_atomically(sweep.folder / "report.html", page(sweep, results, groups));
  write_file_atomically(sweep.folder / "results.csv", csv(results));
}

}  // namespace headway
