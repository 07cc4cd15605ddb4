#include "trainers/report/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

namespace headway {
namespace {

constexpr std::array kColours{"#1b6ca8", "#c8553d", "#2a9d4a", "#8e44ad", "#d4a017",
                              "#16808a", "#b03a75", "#5d6d7e", "#7a5230", "#000000"};
constexpr std::array kDashes{"none", "7 3", "2 3", "9 3 2 3"};

struct Tick {
  double at;
  std::string label;
};

/// Whether an axis can lead from low to high: numbers that differ in their last digits alone have no round
/// ones between them, and a file may hold any.
bool is_drawable(double low, double high) {
  const double length = high - low;
  return length > 1e-9 * std::max(std::abs(low), std::abs(high)) && length > 1e-100 && length < 1e100;
}

/// Round numbers from low to high, three to six: on a phone's screen labels of more would meet.
std::vector<Tick> ticks(double low, double high) {
  const double power = std::pow(10, std::floor(std::log10((high - low) / 5)));
  double step = 10 * power;
  for (const double factor : {5, 2, 1})
    if (factor * power * 5 >= high - low) step = factor * power;
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

/// What the axes show.
struct Range {
  double x_max = 0, y_min = 1e300, y_max = -1e300;

  explicit Range(const std::vector<Curve>& curves) {
    for (const Curve& curve : curves)
      for (size_t i = 0; i < curve.points.size(); ++i) {
        const Curve::Point& point = curve.points[i];
        x_max = std::max(x_max, point.x);
        y_min = std::min(y_min, point.low);
        if (i >= curve.points.size() / 10) y_max = std::max(y_max, point.high);
      }
    const double margin = 0.05 * (y_max - y_min);
    y_min -= margin, y_max += margin;
  }
};

}  // namespace

std::string chart(const std::vector<Curve>& curves, const std::string& name, const std::string& x_title) {
  constexpr double kWidth = 640, kHeight = 400, kLeft = 76, kRight = 36, kTop = 12, kBottom = 64;
  if (std::ranges::none_of(curves, [](const Curve& curve) { return curve.points.size() > 1; })) return "";
  const Range range(curves);
  if (!is_drawable(0, range.x_max) || !is_drawable(range.y_min, range.y_max)) return "";
  const auto px = [&](double x) { return kLeft + x / range.x_max * (kWidth - kLeft - kRight); };
  const auto py = [&](double y) {
    return kTop + (range.y_max - y) / (range.y_max - range.y_min) * (kHeight - kTop - kBottom);
  };
  std::string clip = name + " " + x_title;
  std::ranges::replace(clip, ' ', '-');
  std::string svg = fmt::format(
      "<figure><svg viewBox=\"0 0 {0} {1}\" role=\"img\" aria-label=\"{2} by {3}\">"
      "<clipPath id=\"{4}\"><rect x=\"{5}\" y=\"{6}\" width=\"{7}\" height=\"{8}\"/></clipPath>",
      kWidth, kHeight, name, x_title, clip, kLeft, kTop, kWidth - kLeft - kRight, kHeight - kTop - kBottom);
  for (const Tick& y : ticks(range.y_min, range.y_max))
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text x=\"{3:.1f}\" y=\"{2:.1f}\" text-anchor=\"end\" dominant-baseline=\"middle\">{4}</text>",
        kLeft, kWidth - kRight, py(y.at), kLeft - 8, y.label);
  svg += fmt::format("<line class=\"axis\" x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>",
                     kLeft, kWidth - kRight, kHeight - kBottom);
  for (const Tick& x : ticks(0, range.x_max))
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>", px(x.at),
                       kHeight - kBottom + 25, x.label);
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>", (kLeft + kWidth) / 2,
                     kHeight - 10, x_title);
  for (const Curve& curve : curves) {
    if (!curve.has_band) continue;
    std::string outline;
    for (const Curve::Point& point : curve.points)
      outline += fmt::format("{:.1f},{:.1f} ", px(point.x), py(point.low));
    for (auto point = curve.points.rbegin(); point != curve.points.rend(); ++point)
      outline += fmt::format("{:.1f},{:.1f} ", px(point->x), py(point->high));
    svg += fmt::format("<polygon clip-path=\"url(#{})\" points=\"{}\" fill=\"{}\"/>", clip, outline,
                       curve.colour);
  }
  for (const Curve& curve : curves) {
    std::string line;
    for (const Curve::Point& point : curve.points)
      line += fmt::format("{:.1f},{:.1f} ", px(point.x), py(point.y));
    svg += fmt::format(
        "<polyline clip-path=\"url(#{})\" points=\"{}\" stroke=\"{}\" stroke-dasharray=\"{}\">"
        "<title>{}</title></polyline>",
        clip, line, curve.colour, curve.dashes, curve.title);
  }
  return svg + "</svg></figure>";
}

std::vector<Stroke> strokes(const std::vector<std::string>& families) {
  std::map<std::string, size_t> colour_of, size_of;
  for (const std::string& family : families) {
    colour_of.try_emplace(family, colour_of.size());
    ++size_of[family];
  }
  const bool by_family =
      families.size() > kColours.size() && colour_of.size() <= kColours.size() &&
      std::ranges::all_of(size_of, [](const auto& family) { return family.second <= kDashes.size(); });
  std::vector<Stroke> all;
  std::map<std::string, size_t> seen;
  for (const std::string& family : families) {
    const size_t colour = by_family ? colour_of[family] : all.size();
    const size_t dash = by_family ? seen[family]++ : all.size() / kColours.size();
    all.push_back({kColours[colour % kColours.size()], kDashes[dash % kDashes.size()]});
  }
  return all;
}

}  // namespace headway
