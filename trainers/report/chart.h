// Curves as an SVG for a page.
#pragma once

#include <string>
#include <vector>

namespace headway {

struct Curve {
  struct Point {
    double x, y;
    double low, high;  // of the band around y
  };
  std::string title;   // shown when pointed at
  std::string colour;  // "#1b6ca8"
  std::string dashes;  // of the line: "none", "7 3"
  std::vector<Point> points;
  bool has_band = false;
};

/// A figure with one line for each curve; x starts at 0, and y leaves out the first tenth of every curve,
/// which falls from a guess. Empty where no curve has two points.
std::string chart(const std::vector<Curve>&, const std::string& name, const std::string& x_title);

/// Colours and dashes for curves of these families, in order: a colour for each, or where those do not
/// suffice a colour for each family and dashes within it.
struct Stroke {
  std::string colour, dashes;
};
std::vector<Stroke> strokes(const std::vector<std::string>& families);

}  // namespace headway
